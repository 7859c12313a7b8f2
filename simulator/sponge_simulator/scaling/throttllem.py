"""throttLL'eM's rule with cores in place of clock frequencies: the lowest speed that keeps every projected deadline.

Source: "throttLL'eM: Predictive GPU Throttling for Energy Efficient LLM Inference Serving" (HPCA 2025). It projects the
schedule of the queued and running requests, checks every deadline, and finds the lowest speed by binary search.
Requests that are already lost do not count. It differs from Sponge in that batches run one at a time on all cores, and
that nothing is forecast.
"""

from __future__ import annotations

from sponge_core.edf_queue import Request
from sponge_simulator.scaling.interface import Observation, Service, Size

__all__ = ["ThrottLLeM"]


class ThrottLLeM:
    """One replica."""

    interval_s = 0.1
    dispatch = "edf-single-lane"

    def __init__(self, service: Service) -> None:
        self._service = service

    def arrived(self, now: float, request: Request) -> None:
        """Ignores arrivals; the queue shows what waits."""

    def plan(self, state: Observation) -> Size:
        sizes = self._service.sizes
        low, high = 0, len(sizes) - 1
        while low < high:
            middle = (low + high) // 2
            if self._keeps_all(state, sizes[middle]):
                high = middle
            else:
                low = middle + 1
        return Size(sizes[low], self._service.max_batch)

    def _keeps_all(self, state: Observation, cores: float) -> bool:
        service = self._service
        threads = max(1, int(cores))
        best_s = service.model.latency(1, max(1, int(service.max_cores)))
        at = state.now + service.resize_s + max((batch.left_s for batch in state.running), default=0.0)
        waiting = [r.deadline for r in state.queue if r.deadline >= state.now + best_s]
        for first in range(0, len(waiting), service.max_batch):
            batch = waiting[first : first + service.max_batch]
            at += service.model.latency(len(batch), threads)
            if at > batch[0]:
                return False
        return True
