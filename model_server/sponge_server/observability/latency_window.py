"""A sliding window over latencies, for the percentile that the state reports. Pure: time comes in as an argument."""

from __future__ import annotations

import math
from collections import deque

__all__ = ["RecentLatencies"]


class RecentLatencies:
    """Latencies of the last `window_s` seconds, at most `most` of them."""

    def __init__(self, window_s: float = 10.0, most: int = 20_000) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, float]] = deque(maxlen=most)

    def add(self, now: float, latency_s: float) -> None:
        self._seen.append((now, latency_s))

    def quantile(self, now: float, q: float) -> float | None:
        """The q-quantile (0..1, nearest rank), or None when nothing ended lately."""
        while self._seen and self._seen[0][0] < now - self._window_s:
            self._seen.popleft()
        if not self._seen:
            return None
        ordered = sorted(latency for _, latency in self._seen)
        return ordered[max(0, math.ceil(q * len(ordered)) - 1)]
