"""INFless: each configuration serves a range of rates, and the most efficient one is chosen for the present rate.

Source: "INFless: A Native Serverless System for Low-Latency, High-Throughput Inference" (ASPLOS 2022). A replica with
batch b serves at most b/l requests per second, and at least b/(SLO - l), or its batches do not fill in time. Of the
configurations whose lower bound the rate reaches, the one with the most throughput per core is chosen. Instead of the
paper's mix of configurations for the last fraction of the rate there is one more replica. The rate is the highest of
the last few seconds.
"""

from __future__ import annotations

import math

from sponge_core.edf_queue import Request
from sponge_core.planning.steady_state import Configuration
from sponge_simulator.scaling.arrival_history import ArrivalCounts, WorstNetwork
from sponge_simulator.scaling.interface import Observation, Service, Size

__all__ = ["InfLess"]

WINDOW_S = 5
SCALE_IN_WAIT_S = 10.0


class InfLess:
    """Replicas of the chosen configuration."""

    interval_s = 1.0
    dispatch = "fifo"

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counts = ArrivalCounts(WINDOW_S)
        self._network = WorstNetwork()
        self._fewer_since: float | None = None

    def arrived(self, now: float, request: Request) -> None:
        self._counts.arrived(now)
        self._network.arrived(now, request)

    def plan(self, state: Observation) -> Size:
        rate = max(self._counts.peak(state.now), 1.0)
        chosen = self._choose(rate, self._service.slo_s - self._network.read())
        if chosen is None:
            return state.size
        wanted = Size(chosen.cores, chosen.batch, min(self._service.max_replicas, math.ceil(rate / chosen.throughput)))
        if wanted.cores * wanted.replicas >= state.size.cores * state.size.replicas:
            self._fewer_since = None
            return wanted
        self._fewer_since = state.now if self._fewer_since is None else self._fewer_since
        return wanted if state.now - self._fewer_since >= SCALE_IN_WAIT_S else state.size

    def _choose(self, rate: float, left_s: float) -> Configuration | None:
        best: Configuration | None = None
        for cores in self._service.sizes:
            for batch in range(1, self._service.max_batch + 1):
                latency_s = self._service.model.latency(batch, max(1, int(cores)))
                # A single request waits for no other; a larger batch must fill and run within the remaining time.
                if latency_s >= left_s or (batch > 1 and rate < batch / (left_s - latency_s)):
                    continue
                option = Configuration(cores, batch, latency_s)
                if best is None or option.per_core > best.per_core:
                    best = option
        return best
