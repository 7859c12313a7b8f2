"""Statistics of arrivals that several policies use: counts per second, and the worst network delay."""

from __future__ import annotations

from collections import deque

from sponge_core.edf_queue import Request

__all__ = ["ArrivalCounts", "WorstNetwork"]


class ArrivalCounts:
    """Arrivals in each of the last `window_s` whole seconds."""

    def __init__(self, window_s: int) -> None:
        self._window_s = window_s
        self._counts: deque[int] = deque(maxlen=window_s)
        self._second = 0
        self._current = 0

    def arrived(self, now: float) -> None:
        """Counts an arrival."""
        self._advance(now)
        self._current += 1

    def per_second(self, now: float) -> list[int]:
        """The counts of the whole seconds in the window, oldest first; fewer while the service is younger."""
        self._advance(now)
        return list(self._counts)

    def mean(self, now: float) -> float:
        """Arrivals per second over the window; 0 before the first second has passed."""
        counts = self.per_second(now)
        return sum(counts) / len(counts) if counts else 0.0

    def peak(self, now: float) -> float:
        """The most arrivals in one second of the window."""
        return float(max(self.per_second(now), default=0))

    def _advance(self, now: float) -> None:
        if int(now) - self._second > self._window_s:  # nothing arrived for longer than the window
            self._counts.extend([0] * self._window_s)
            self._second, self._current = int(now), 0
        while self._second + 1 <= now:
            self._counts.append(self._current)
            self._second, self._current = self._second + 1, 0


class WorstNetwork:
    """The longest network delay of any request since the last read."""

    def __init__(self) -> None:
        self._worst_s = 0.0

    def arrived(self, now: float, request: Request) -> None:
        """Records the delay of a request."""
        self._worst_s = max(self._worst_s, now - request.sent)

    def read(self) -> float:
        """The worst delay in seconds; resets it."""
        worst_s, self._worst_s = self._worst_s, 0.0
        return worst_s
