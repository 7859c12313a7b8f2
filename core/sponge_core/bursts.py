"""Remembers how large bursts were, so that the first requests of one tell how many will follow.

A server sees a burst arrive one request after the other, and later the fewer cores it has. A size that is chosen for
what it sees first has to be corrected, and each correction takes time that the requests do not have.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

__all__ = ["TOGETHER_S", "BurstHistory"]

TOGETHER_S: Final = 0.25
"""Requests that come within this time of the first one of them form a group."""

SIGMAS: Final = 2.0
"""A group is a burst if it has more requests than the rate explains, by so many standard deviations of a Poisson count.
In steady traffic a few groups do, and those are hardly larger."""

REMEMBERED_S: Final = 60.0

REPEATED: Final = 2
"""One burst says nothing about the next one."""


class BurstHistory:
    """The bursts of the last minute, and the group of requests that is arriving."""

    def __init__(self) -> None:
        self._bursts: deque[tuple[float, int]] = deque()  # (begin, requests)
        self._began = -math.inf
        self._size = 0
        self._usual = math.inf

    def is_over(self, now: float) -> bool:
        """Whether the next request begins a group."""
        return now >= self._began + TOGETHER_S

    def begin(self, now: float, rate: float) -> None:
        """Begins a group.

        Args:
            rate: requests per second until now.
        """
        if self._size > self._usual:
            self._bursts.append((self._began, self._size))
        while self._bursts and self._bursts[0][0] <= now - REMEMBERED_S:
            self._bursts.popleft()
        mean = rate * TOGETHER_S
        self._began, self._size, self._usual = now, 0, 1.0 + mean + SIGMAS * math.sqrt(mean)

    def add(self) -> None:
        """Counts a request to the group."""
        self._size += 1

    def further(self, now: float) -> tuple[int, float]:
        """How many more requests the present burst is likely to get, and until when.

        Of the bursts that grew to at least its present size, half grew at least to the size that is expected.
        """
        if self.is_over(now) or self._size <= self._usual:
            return 0, now
        as_large = sorted([size for _, size in self._bursts if size >= self._size])
        further = as_large[len(as_large) // 2] - self._size if len(as_large) >= REPEATED else 0
        return further, self._began + TOGETHER_S
