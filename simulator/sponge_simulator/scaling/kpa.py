"""Knative's Pod Autoscaler on concurrency, with replicas of one size.

Source: the Knative Serving documentation. The mean number of requests in flight over a stable window of 60 s is
compared with 70 % of what a replica may hold. A panic window of 6 s takes over when it asks for twice the present
number, and while it lasts nothing is scaled down. A service that may be parked goes to zero replicas after the stable
window and a grace period of 30 s without a request; the next request starts a replica.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from sponge_core.edf_queue import Request
from sponge_simulator.scaling.interface import Observation, Service, Size
from sponge_simulator.scaling.steady_state import provisioned

__all__ = ["Kpa"]

TARGET = 0.7
STABLE_S, PANIC_S = 60.0, 6.0
PANIC_RATIO = 2.0
TO_ZERO_S = STABLE_S + 30.0


class Kpa:
    """Replicas of one size that may each hold one full batch."""

    interval_s = 2.0
    dispatch = "fifo"

    def __init__(self, service: Service) -> None:
        self._service = service
        self._seen: deque[tuple[float, float]] = deque()
        self._panic_until = -math.inf
        self._panic_replicas = 0
        self._busy_at = 0.0

    def arrived(self, now: float, request: Request) -> None:
        """Ignores single requests and looks only at the number in flight."""

    def plan(self, state: Observation) -> Size:
        if state.now == 0:
            return provisioned(self._service, TARGET)
        now, ready = state.now, max(1, state.ready)
        if state.in_flight > 0 or state.queue:
            self._busy_at = now
        if self._service.idle_cores is not None and now - self._busy_at >= TO_ZERO_S:
            return Size(self._service.replica_cores, self._service.max_batch, 0, until_request=True)
        self._seen.append((now, state.in_flight))
        while self._seen[0][0] <= now - STABLE_S:
            self._seen.popleft()
        stable = self._wanted(held for _, held in self._seen)
        panic = self._wanted(held for at, held in self._seen if at > now - PANIC_S)
        if panic / ready >= PANIC_RATIO:
            self._panic_until = now + STABLE_S
        if now < self._panic_until:
            self._panic_replicas = max(self._panic_replicas, panic)
            wanted = max(self._panic_replicas, state.size.replicas)
        else:
            self._panic_replicas, wanted = 0, stable
        replicas = min(max(wanted, 1), self._service.max_replicas)
        return Size(self._service.replica_cores, self._service.max_batch, replicas)

    def _wanted(self, in_flight: Iterable[float]) -> int:
        held = list(in_flight)
        return math.ceil(sum(held) / len(held) / (TARGET * self._service.max_batch)) if held else 0
