"""Themis: vertical scaling while a surge lasts, horizontal scaling once the rate is stable.

Source: "A Tale of Two Scales" (arXiv 2407.14843), single stage. It plans every half second for the highest rate of the
last 5 s. When that exceeds the capacity of the replicas, their cores grow in place and never shrink; if the largest
size is not enough, replicas are added for the rest. After the rate has been served for 10 s, the service returns to the
cheapest number of small replicas, plus one spare. The classifier of coming surges is replaced by the rate itself,
with a margin.
"""

from __future__ import annotations

import math

from sponge_core.edf_queue import Request
from sponge_core.planning.steady_state import Configuration
from sponge_simulator.scaling.arrival_history import ArrivalCounts, WorstNetwork
from sponge_simulator.scaling.interface import Observation, Service, Size
from sponge_simulator.scaling.steady_state import most_throughput, with_margin

__all__ = ["Themis"]

WINDOW_S = 5
STABLE_S = 10.0
SPARE = 1


class Themis:
    """Replicas of equal size."""

    interval_s = 0.5
    dispatch = "edf-single-lane"

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counts = ArrivalCounts(WINDOW_S)
        self._network = WorstNetwork()
        self._carried_since: float | None = None

    def arrived(self, now: float, request: Request) -> None:
        self._counts.arrived(now)
        self._network.arrived(now, request)

    def plan(self, state: Observation) -> Size:
        service, size = self._service, state.size
        rate = with_margin(self._counts.peak(state.now))
        left_s = service.slo_s - self._network.read()
        carrying = most_throughput(service, size.cores, rate, left_s)
        if carrying is None or carrying.throughput * max(1, state.ready) < rate:
            self._carried_since = None
            return self._upwards(state, rate, left_s)
        self._carried_since = state.now if self._carried_since is None else self._carried_since
        if state.now - self._carried_since < STABLE_S:
            return Size(size.cores, carrying.batch, size.replicas)
        return self._sideways(state, rate, left_s) or Size(size.cores, carrying.batch, size.replicas)

    def _upwards(self, state: Observation, rate: float, left_s: float) -> Size:
        """The same replicas with the fewest cores that serve the rate; more replicas if no size does."""
        service, ready = self._service, max(1, state.ready)
        largest: Configuration | None = None
        for cores in service.sizes:
            if cores < state.size.cores:
                continue
            best = most_throughput(service, cores, rate, left_s)
            if best is not None and best.throughput * ready >= rate:
                return Size(cores, best.batch, state.size.replicas)
            largest = best or largest
        if largest is None:
            return state.size
        more = math.ceil((rate - largest.throughput * ready) / largest.throughput)
        return Size(largest.cores, largest.batch, min(service.max_replicas, ready + more))

    def _sideways(self, state: Observation, rate: float, left_s: float) -> Size | None:
        """The cheapest number of small replicas: first the missing ones start, then the size shrinks."""
        small = self._service.replica_cores
        best = most_throughput(self._service, small, rate, left_s)
        if best is None:
            return None
        replicas = min(self._service.max_replicas, math.ceil(rate / best.throughput) + SPARE)
        if state.ready < replicas:
            return Size(state.size.cores, best.batch, replicas)
        return Size(small, best.batch, replicas)
