"""Autopilot's moving-window recommender on CPU use, in place.

Source: "Autopilot: workload autoscaling at Google" (EuroSys 2020). CPU use is aggregated over a sliding window with
weights that halve every half-life, and the limit is a high percentile of it plus a margin. Peaks raise the limit within
one interval; it falls slowly. The policy knows neither batches nor deadlines.
"""

from __future__ import annotations

from collections import deque

from sponge_core.edf_queue import Request
from sponge_simulator.scaling.interface import Observation, Service, Size

__all__ = ["Autopilot"]

PERCENTILE = 0.95
MARGIN = 1.1
WINDOW_S = 60.0
HALF_LIFE_S = 20.0


class Autopilot:
    """One replica, with a sample of CPU use every second."""

    interval_s = 1.0
    dispatch = "fifo"

    def __init__(self, service: Service) -> None:
        self._service = service
        self._samples: deque[tuple[float, float]] = deque()

    def arrived(self, now: float, request: Request) -> None:
        """Ignores requests and looks only at CPU use."""

    def plan(self, state: Observation) -> Size:
        if state.now == 0:
            return state.size
        self._samples.append((state.now, state.used_cores))
        while self._samples[0][0] <= state.now - WINDOW_S:
            self._samples.popleft()
        # A service that uses all its cores may need any number more, so grow step by step.
        wanted = max(MARGIN * self._percentile(state.now), MARGIN * state.used_cores)
        sizes = self._service.sizes
        return Size(next((size for size in sizes if size >= wanted), sizes[-1]), self._service.max_batch)

    def _percentile(self, now: float) -> float:
        weighted = sorted((used, 0.5 ** ((now - at) / HALF_LIFE_S)) for at, used in self._samples)
        left = PERCENTILE * sum(weight for _, weight in weighted)
        for used, weight in weighted:
            left -= weight
            if left <= 0:
                return used
        return weighted[-1][0]
