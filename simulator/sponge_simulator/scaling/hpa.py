"""The Horizontal Pod Autoscaler on CPU utilisation, with replicas of a fixed size.

Source: Kubernetes 1.36, `pkg/controller/podautoscaler`. Every 15 s, for the first time 15 s after its object is there,
desired = ceil(replicas * use / target), unless the ratio is within 10 % of 1. Use is a whole percentage, rounded down.
A replica counts once it has been ready for a whole window of its metrics. Before, it counts as idle where others ask
for more replicas; one without metrics counts as full where others ask for fewer. At most twice as many replicas are
asked for as there are, or four. Scaling down uses the highest desired number of the last 300 s, among which counts the
number that it finds.
"""

from __future__ import annotations

import math
from collections import deque

from sponge_core.edf_queue import Request
from sponge_simulator.scaling.interface import Observation, Service, Size
from sponge_simulator.scaling.steady_state import provisioned

__all__ = ["TARGET", "Hpa"]

TARGET = 0.7
TOLERANCE = 0.1
STABILISATION_S = 300.0
MOST_AT_ONCE = 4


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
        present = state.size.replicas
        if not self._desires:
            self._desires.append((state.now, present))
        desired = min(self._desired(state), max(2 * present, MOST_AT_ONCE), self._service.max_replicas)
        self._desires.append((state.now, desired))
        while self._desires[0][0] < state.now - STABILISATION_S:
            self._desires.popleft()
        if desired < present:
            desired = min(present, max(count for _, count in self._desires))
        return Size(self._service.replica_cores, self._service.max_batch, max(desired, 1))

    def _desired(self, state: Observation) -> int:
        present = state.size.replicas
        counted = [use.cores for use in state.uses if use.at >= use.ready_at + use.window_s]
        if not counted:
            return present
        missing = present - len(state.uses)  # without metrics
        unready = len(state.uses) - len(counted)
        ratio = self._ratio(counted)
        if not missing and not (unready and ratio > 1):
            return present if _is_tolerated(ratio) else math.ceil(ratio * len(counted))
        counted += [0.0] * (missing + unready) if ratio > 1 else [self._service.replica_cores] * missing
        corrected = self._ratio(counted)
        if _is_tolerated(corrected) or (ratio > 1) != (corrected > 1):
            return present
        desired = math.ceil(corrected * len(counted))
        return desired if (desired > present) == (ratio > 1) else present

    def _ratio(self, uses: list[float]) -> float:
        """Use against the target; 1 at the target."""
        percent = math.floor(100 * sum(uses) / (len(uses) * self._service.replica_cores) + 1e-9)
        return percent / round(100 * TARGET)


def _is_tolerated(ratio: float) -> bool:
    return 1 - TOLERANCE <= ratio <= 1 + TOLERANCE
