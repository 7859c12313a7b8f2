"""BARISTA and MArk: the cheapest replicas for the rate that is forecast for when a new replica would be ready.

Sources: "BARISTA" (IC2E 2019) and "MArk" (ATC 2019). Both forecast the rate over the start of a replica, choose the
cheapest flavour that answers in time, and start as many replicas as the forecast needs. Their forecasters (Prophet; a
neural network) are replaced by a line through the last half minute, with its residual as margin.
"""

from __future__ import annotations

import math

import numpy as np

from sponge_core.edf_queue import Request
from sponge_core.planning.steady_state import configurations
from sponge_simulator.scaling.arrival_history import ArrivalCounts, WorstNetwork
from sponge_simulator.scaling.interface import Observation, Service, Size

__all__ = ["Barista"]

WINDOW_S = 30
SCALE_IN_WAIT_S = 30.0


class Barista:
    """Replicas of the cheapest flavour."""

    interval_s = 5.0
    dispatch = "fifo"

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counts = ArrivalCounts(WINDOW_S)
        self._network = WorstNetwork()
        self._needs: list[tuple[float, int]] = []

    def arrived(self, now: float, request: Request) -> None:
        self._counts.arrived(now)
        self._network.arrived(now, request)

    def plan(self, state: Observation) -> Size:
        service, now = self._service, state.now
        rate = self._forecast(now)
        left_s = service.slo_s - self._network.read()
        options = configurations(service.model, service.sizes, service.batches, rate, left_s)
        # Order by the cost of whole replicas, then by the size of one.
        best = min(
            options,
            key=lambda option: (option.cores * math.ceil(rate / option.throughput), option.cores),
            default=None,
        )
        if best is None:
            return state.size
        if best.cores != state.size.cores:
            self._needs.clear()  # counts of another flavour do not apply
        self._needs.append((now, max(1, math.ceil(rate / best.throughput))))
        self._needs = [(at, n) for at, n in self._needs if at > now - SCALE_IN_WAIT_S]
        return Size(best.cores, best.batch, min(service.max_replicas, max(n for _, n in self._needs)))

    def _forecast(self, now: float) -> float:
        """Requests per second at the time when a replica requested now would be ready."""
        counts = self._counts.per_second(now)
        if len(counts) < 3:
            return self._service.rate
        seconds = np.arange(len(counts))
        slope, start = np.polyfit(seconds, counts, 1)
        spread = float(np.std(np.asarray(counts) - (start + slope * seconds)))
        ahead = start + slope * (len(counts) + self._service.cold_start_s)
        return max(float(ahead) + spread, 1.0)
