"""Aladdin: packs requests onto as few replicas as their deadlines allow.

Source: "Aladdin: Joint Placement and Scaling for SLO-Aware LLM Serving" (arXiv 2405.06856), for one-shot inference. A
replica has the size with the most throughput per core that still answers in time. Each request goes to the replica with
the least room left that keeps every deadline on it (best fit); if none does, a replica is added. It packs the queue
and one second of arrivals at the recent rate. A replica that is not needed is removed after a wait.
"""

from __future__ import annotations

from sponge_core.edf_queue import Request
from sponge_core.planning.steady_state import Configuration, configurations
from sponge_simulator.scaling.arrival_history import ArrivalCounts
from sponge_simulator.scaling.interface import Observation, Service, Size
from sponge_simulator.scaling.steady_state import with_margin

__all__ = ["Aladdin"]

WINDOW_S = 5
SCALE_IN_WAIT_S = 10.0
LEFT_SHARE = 0.5
"""Fraction of the SLO for a batch; the rest is for the network and for waiting."""


class Aladdin:
    """Replicas of the most efficient size."""

    interval_s = 1.0
    dispatch = "edf-single-lane"

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counts = ArrivalCounts(WINDOW_S)
        self._remaining_s = service.slo_s
        self._needed_at: list[tuple[float, int]] = []
        options = configurations(
            service.model, service.sizes, service.batches, float("inf"), LEFT_SHARE * service.slo_s
        )
        fallback = Configuration(service.sizes[-1], 1, service.model.latency(1, max(1, int(service.sizes[-1]))))
        self._best = max(options, key=lambda option: option.per_core, default=fallback)

    def arrived(self, now: float, request: Request) -> None:
        self._counts.arrived(now)
        # Follow the remaining SLO down at once and up slowly.
        left_s = request.deadline - now
        self._remaining_s = min(left_s, self._remaining_s + 0.02 * (left_s - self._remaining_s))

    def plan(self, state: Observation) -> Size:
        now = state.now
        self._needed_at.append((now, self._pack(state)))
        self._needed_at = [(at, n) for at, n in self._needed_at if at > now - SCALE_IN_WAIT_S]
        replicas = max(n for _, n in self._needed_at)
        return Size(self._best.cores, self._best.batch, min(max(replicas, 1), self._service.max_replicas))

    def _pack(self, state: Observation) -> int:
        """The number of replicas that the queue and the next second need, by best fit."""
        per_request_s = 1.0 / self._best.throughput
        count = round(with_margin(self._counts.mean(state.now)))
        items = [(0.0, r.deadline - state.now) for r in state.queue if r.deadline > state.now + self._best.latency_s]
        items += [((i + 0.5) / count, (i + 0.5) / count + self._remaining_s) for i in range(count)]
        busy_until: list[float] = []
        for arrival, deadline in sorted(items, key=lambda item: item[1]):
            best: int | None = None
            for index, until in enumerate(busy_until):
                done = max(until, arrival) + per_request_s
                if done + self._best.latency_s <= deadline and (best is None or until > busy_until[best]):
                    best = index
            if best is None:
                busy_until.append(arrival + per_request_s)
            else:
                busy_until[best] = max(busy_until[best], arrival) + per_request_s
        return len(busy_until)
