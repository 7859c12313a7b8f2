"""Whether a front trusts a pod, learned from how requests end there.

A pod is judged beside the others: under overload all of them miss, and none is to blame. One that is not trusted gets
no requests for a while, then one at a time, until one is answered in time.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["PodHealth"]

WINDOW_S: Final = 2.0
"""Time constant in which endings are forgotten: some SLOs long."""

FAILURES: Final = 2
"""Distrust a pod after so many failures in a row: one may be the fault of the request."""

MISSES: Final = 4.0
"""Distrust a pod after so many recent misses, if they are most of its endings, and twice the others' share."""

FIRST_S, LONGEST_S = 1.0, 30.0
"""How long the first distrust lasts, and the longest; it doubles each time."""


class PodHealth:
    """The endings of one pod's requests. Time is an argument, in seconds on the front's clock."""

    __slots__ = ("_at", "_failures", "_in_time", "_missed", "_on_trial", "_times", "_until")

    def __init__(self) -> None:
        self._in_time = self._missed = 0.0  # recent endings, each discounted by its age
        self._at = 0.0
        self._failures = 0
        self._times = 0
        self._until = -math.inf
        self._on_trial = False

    def recent(self, now: float) -> tuple[float, float]:
        """The recent endings, in time and missed, each discounted by its age."""
        kept = math.exp(-max(0.0, now - self._at) / WINDOW_S)
        return self._in_time * kept, self._missed * kept

    def in_time(self, now: float) -> None:
        """A request was answered in time."""
        self._in_time, self._missed = self.recent(now)
        self._in_time += 1.0
        self._at, self._failures = now, 0
        if self._on_trial and now >= self._until:
            self._on_trial = False
        if not self._on_trial and now - self._until > LONGEST_S:
            self._times = 0

    def missed(self, now: float, others: float, *, failed: bool) -> None:
        """A request was answered late or refused, or it `failed`.

        Args:
            others: the share of recent endings at the other pods that missed.
        """
        self._in_time, self._missed = self.recent(now)
        self._missed += 1.0
        self._at = now
        self._failures = self._failures + 1 if failed else 0
        if now < self._until:
            return  # it was sent before
        share = self._missed / (self._in_time + self._missed)
        worse = self._missed >= MISSES and share > 0.5 and share > 2.0 * others
        if worse or self._failures >= FAILURES or (self._on_trial and (failed or others < 0.5)):
            self._until = now + min(LONGEST_S, FIRST_S * 2.0**self._times)
            self._times += 1
            self._on_trial = True
            self._in_time = self._missed = 0.0
            self._failures = 0

    def trusted(self, now: float, outstanding: int) -> bool:
        """Whether it may get a request now, while `outstanding` of its requests have not ended."""
        return not self._on_trial or (now >= self._until and outstanding == 0)
