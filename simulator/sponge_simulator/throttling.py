"""The batches that really run under a CPU quota as the kernel gives it out: so much in every period of 100 ms.

While something of a period's quota is left every thread runs at full speed; after that all stand still until the next
period. Over many periods that is the mean speed by which a dispatch rule predicts, but a short batch that comes to an
idle server is done before the quota is used up. Knows nothing of predictions or of requests. It
takes the place of a `RunningSet`, whose quota is given out evenly.
"""

from __future__ import annotations

import math

from sponge_core.cpu_sharing import CFS_PERIOD_S

__all__ = ["ThrottledSet"]

_ALMOST = 1e-9


class ThrottledSet:
    """Running batches by key. `overhead`: cores of the same quota that are used beside the batches, all the time."""

    def __init__(self, cores: float, overhead: float = 0.0, now: float = 0.0) -> None:
        self._cores = cores
        self._overhead = overhead
        self._now = now
        self._period = _period_of(now)
        self._used_s = 0.0  # CPU seconds of this period's quota
        self._ran_until = now
        self._left_s: dict[int, float] = {}
        self._threads_of: dict[int, int] = {}
        self._threads = 0

    @property
    def threads(self) -> int:
        """Threads of all running batches together."""
        return self._threads

    def start(self, key: int, threads: int, work_s: float, deadline: float, now: float) -> None:  # noqa: ARG002
        """A batch that takes `work_s` seconds at full speed starts on `threads` threads."""
        self._advance(now)
        self._left_s[key] = work_s
        self._threads_of[key] = threads
        self._threads += threads

    def finish(self, key: int, now: float) -> None:
        """The batch is done. Raises KeyError when it is not running."""
        self._advance(now)
        del self._left_s[key]
        self._threads -= self._threads_of.pop(key)

    def set_cores(self, cores: float, now: float) -> None:
        """The quota changed; with it the kernel gives out a whole period's worth at once."""
        self._advance(now)
        self._cores = cores
        self._used_s = 0.0

    def next_finish(self, now: float) -> tuple[int, float] | None:
        """Key and time of the batch that ends first if nothing changes; None when none runs."""
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
        """The last moment by `now` at which anything under the quota could run."""
        self._advance(now)
        return self._ran_until

    def _advance(self, now: float) -> None:
        while now > self._now:
            end = min(now, (self._period + 1) * CFS_PERIOD_S)
            runs_s = self._runs_s(self._now, end, self._used_s)
            if runs_s > 0:
                self._ran_until = self._now + runs_s
            self._used_s += runs_s * (self._threads + self._overhead)
            for key, left_s in self._left_s.items():
                self._left_s[key] = max(0.0, left_s - runs_s)
            self._now = end
            if end < now or _period_of(end) > self._period:
                self._period, self._used_s = self._period + 1, 0.0
            if not self._left_s and now > self._now:  # nothing to follow through the periods between
                self._period = _period_of(now)
                self._now = self._ran_until = max(self._now, self._period * CFS_PERIOD_S)

    def _runs_s(self, start: float, end: float, used_s: float) -> float:
        """For how long between two moments of one period the threads run."""
        per_s = self._threads + self._overhead
        quota_s = max(0.0, self._cores * CFS_PERIOD_S - used_s)
        return end - start if per_s * (end - start) <= quota_s else quota_s / per_s


def _period_of(at: float) -> int:
    return math.floor(at / CFS_PERIOD_S + _ALMOST)
