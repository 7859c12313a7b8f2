"""The Horizontal Pod Autoscaler on CPU utilisation, with replicas of a fixed size.

Source: the Kubernetes documentation. Every 15 s, desired = ceil(replicas * use / target), unless the ratio is within
10 % of 1. Scaling down uses the highest desired number of the last 300 s. A new replica has a cold start.
"""

from __future__ import annotations

import math
from collections import deque

from sponge_core.edf_queue import Request
from sponge_simulator.scaling.interface import Observation, Service, Size
from sponge_simulator.scaling.steady_state import provisioned

__all__ = ["Hpa"]

TARGET = 0.7
TOLERANCE = 0.1
STABILISATION_S = 300.0


class Hpa:
    """Replicas of one size."""

    interval_s = 15.0
    dispatch = "fifo"

    def __init__(self, service: Service) -> None:
        self._service = service
        self._desires: deque[tuple[float, int]] = deque()

    def arrived(self, now: float, request: Request) -> None:
        """Ignores requests and looks only at CPU use."""

    def plan(self, state: Observation) -> Size:
        if state.now == 0:
            return provisioned(self._service, TARGET)
        ready = max(1, state.ready)
        ratio = state.used_cores / (ready * self._service.replica_cores * TARGET)
        desired = ready if abs(ratio - 1) <= TOLERANCE else math.ceil(ready * ratio)
        desired = min(max(desired, 1), self._service.max_replicas)
        self._desires.append((state.now, desired))
        while self._desires[0][0] < state.now - STABILISATION_S:
            self._desires.popleft()
        if desired < state.size.replicas:
            desired = min(state.size.replicas, max(count for _, count in self._desires))
        return Size(self._service.replica_cores, self._service.max_batch, desired)
