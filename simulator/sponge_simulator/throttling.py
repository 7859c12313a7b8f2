"""Simulates batches under a CPU quota as the kernel enforces it, in periods of 100 ms.

While a period's quota lasts, every thread runs at full speed; then all of them stand still until the next period. Over
many periods this gives the mean speed that the dispatch rule predicts with, but a short batch on an idle server ends
before the quota is used up. `ThrottledSet` replaces a `RunningSet`, whose quota is spread evenly.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from sponge_core.cpu_sharing import CFS_PERIOD_S

__all__ = ["CpuStat", "ThrottledSet"]

_ALMOST = 1e-9


class CpuStat(NamedTuple):
    """The kernel's counters since the start, as in `cpu.stat`: CPU seconds, and periods that were throttled."""

    used_s: float
    throttled_periods: int


class ThrottledSet:
    """Running batches by key.

    Args:
        cores: the quota.
        overhead: cores of the quota that work beside the batches uses all the time.
        now: the time of the start, in seconds.
    """

    def __init__(self, cores: float, overhead: float = 0.0, now: float = 0.0) -> None:
        self._cores = cores
        self._overhead = overhead
        self._now = now
        self._period = _period_of(now)
        self._used_s = 0.0  # CPU seconds of this period's quota
        self._ran_until = now
        self._total_s = 0.0
        self._throttled_periods = 0
        self._throttled_in = -1  # the last period that was counted
        self._left_s: dict[int, float] = {}
        self._threads_of: dict[int, int] = {}
        self._threads = 0

    @property
    def threads(self) -> int:
        """Threads of all running batches together."""
        return self._threads

    def start(self, key: int, threads: int, work_s: float, deadline: float, now: float) -> None:  # noqa: ARG002
        """Starts a batch of `work_s` seconds at full speed on `threads` threads."""
        self._advance(now)
        self._left_s[key] = work_s
        self._threads_of[key] = threads
        self._threads += threads

    def finish(self, key: int, now: float) -> None:
        """Ends a batch. Raises KeyError if it is not running."""
        self._advance(now)
        del self._left_s[key]
        self._threads -= self._threads_of.pop(key)

    def set_cores(self, cores: float, now: float) -> None:
        """Changes the quota; the kernel then grants a whole period's quota at once."""
        self._advance(now)
        self._cores = cores
        self._used_s = 0.0

    def next_finish(self, now: float) -> tuple[int, float] | None:
        """The key and time of the batch that ends first if nothing changes; None if none runs."""
        self._advance(now)
        if not self._left_s:
            return None
        key = min(self._left_s, key=lambda each: self._left_s[each])
        at, used_s, left_s = self._now, self._used_s, self._left_s[key]
        period = self._period
        while True:
            runs_s = self._runs_s(at, (period + 1) * CFS_PERIOD_S, used_s)
            if left_s <= runs_s + _ALMOST:
                return key, at + left_s
            left_s -= runs_s
            period += 1
            at, used_s = period * CFS_PERIOD_S, 0.0

    def ran_until(self, now: float) -> float:
        """The last moment up to `now` at which threads under the quota could run."""
        self._advance(now)
        return self._ran_until

    def wakes_at(self, now: float) -> float:
        """The first moment from `now` on at which threads under the quota can run."""
        self._advance(now)
        exhausted = self._used_s >= self._cores * CFS_PERIOD_S - _ALMOST
        return (self._period + 1) * CFS_PERIOD_S if exhausted else now

    def stat(self, now: float) -> CpuStat:
        """The counters at `now`."""
        self._advance(now)
        return CpuStat(self._total_s, self._throttled_periods)

    def _advance(self, now: float) -> None:
        while now > self._now:
            end = min(now, (self._period + 1) * CFS_PERIOD_S)
            runs_s = self._runs_s(self._now, end, self._used_s)
            if runs_s > 0:
                self._ran_until = self._now + runs_s
            used_s = runs_s * (self._threads + self._overhead)
            self._used_s += used_s
            self._total_s += used_s
            if self._threads and runs_s < end - self._now - _ALMOST and self._period > self._throttled_in:
                self._throttled_in = self._period
                self._throttled_periods += 1
            for key, left_s in self._left_s.items():
                self._left_s[key] = max(0.0, left_s - runs_s)
            self._now = end
            if end < now or _period_of(end) > self._period:
                self._period, self._used_s = self._period + 1, 0.0
            if not self._left_s and now > self._now:  # no batch runs, so skip the periods in between
                self._period = _period_of(now)
                began = max(self._now, self._period * CFS_PERIOD_S)
                self._total_s += (began - self._now) * min(self._overhead, self._cores)
                self._now = self._ran_until = began

    def _runs_s(self, start: float, end: float, used_s: float) -> float:
        """How long the threads run between two moments of one period, in seconds."""
        per_s = self._threads + self._overhead
        quota_s = max(0.0, self._cores * CFS_PERIOD_S - used_s)
        return end - start if per_s * (end - start) <= quota_s else quota_s / per_s


def _period_of(at: float) -> int:
    return math.floor(at / CFS_PERIOD_S + _ALMOST)
