"""AsyFunc: a base for the mean rate, and small helpers that run some of the layers during a burst.

Source: "AsyFunc: A High-Performance and Resource-Efficient Serverless Inference System via Asymmetric Functions" (SoCC
2023). A helper holds only the most expensive layers, so it is small and starts fast. Here a helper is one more step of
cores, available after a resize, that speeds up the batch as the latency model predicts for that many cores. It is
removed when the burst is over.
"""

from __future__ import annotations

from sponge_core.edf_queue import Request
from sponge_core.planning.steady_state import configurations
from sponge_simulator.scaling.arrival_history import ArrivalCounts, WorstNetwork
from sponge_simulator.scaling.interface import Observation, Service, Size
from sponge_simulator.scaling.steady_state import with_margin

__all__ = ["AsyFunc"]

BASE_WINDOW_S = 60
BURST_WINDOW_S = 2


class AsyFunc:
    """One replica, base and helpers together."""

    interval_s = 1.0
    dispatch = "fifo"

    def __init__(self, service: Service) -> None:
        self._service = service
        self._base = ArrivalCounts(BASE_WINDOW_S)
        self._burst = ArrivalCounts(BURST_WINDOW_S)
        self._network = WorstNetwork()

    def arrived(self, now: float, request: Request) -> None:
        self._base.arrived(now)
        self._burst.arrived(now)
        self._network.arrived(now, request)

    def plan(self, state: Observation) -> Size:
        left_s = self._service.slo_s - self._network.read()
        base = self._size(self._base.mean(state.now) if state.now >= 1 else self._service.rate, left_s)
        with_helpers = self._size(with_margin(self._burst.peak(state.now)), left_s)
        return max(base, with_helpers, key=lambda size: size.cores)

    def _size(self, rate: float, left_s: float) -> Size:
        """The fewest cores that serve the rate in time; the largest size if none does."""
        rate = max(rate, 1.0)
        service = self._service
        options = configurations(service.model, service.sizes, service.batches, rate, left_s)
        enough = [option for option in options if option.throughput >= rate]
        best = min(enough, key=lambda option: (option.cores, option.latency_s), default=None)
        if best is None:
            return Size(service.sizes[-1], service.max_batch)
        return Size(best.cores, best.batch)
