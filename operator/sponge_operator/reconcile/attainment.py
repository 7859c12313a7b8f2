"""The share of requests in time over the last minute. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from sponge_core.control_api import Outcome

__all__ = ["Attainment"]

ATTAINMENT_WINDOW_S = 60.0


class Attainment:
    """The share of requests in time over the last minute, for all pods of a service."""

    def __init__(self, window_s: float = ATTAINMENT_WINDOW_S) -> None:
        self._window_s = window_s
        self._pods: dict[str, deque[tuple[float, int, int]]] = {}  # time, in time, all; as counted by the pod

    def observe(self, now: float, pod: str, outcomes: Mapping[Outcome, int]) -> None:
        """Takes a pod's counts since its start; lower counts than before mean that it restarted."""
        samples = self._pods.setdefault(pod, deque())
        in_time, total = outcomes.get("in_time", 0), sum(outcomes.values())
        if samples and total < samples[-1][2]:
            samples.clear()
            samples.append((now, 0, 0))
        if not samples or samples[-1][1:] != (in_time, total):
            samples.append((now, in_time, total))
        # One sample from before the window stays as its starting point.
        while len(samples) > 1 and samples[1][0] <= now - self._window_s:
            samples.popleft()

    def forget(self, pod: str) -> None:
        """Removes a pod that is gone, with its requests."""
        self._pods.pop(pod, None)

    def percent(self) -> float | None:
        """Percent in time; None if no request ended within the window."""
        in_time = sum(samples[-1][1] - samples[0][1] for samples in self._pods.values())
        total = sum(samples[-1][2] - samples[0][2] for samples in self._pods.values())
        return 100.0 * in_time / total if total else None
