"""The batches that run now, and how much of each is left, when they share a CPU quota.

With c cores of quota and n > c threads running, the kernel's bandwidth control lets every thread run c/n of the time:
batches slow each other down. This module keeps the account of that, so that a predicted finish stays true when a batch
starts beside others or the quota changes. Knows nothing of requests or of lanes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["CFS_PERIOD_S", "Running", "RunningSet", "speed_of", "stall_of", "thread_budget"]

CFS_PERIOD_S: Final = 0.1
"""The kernel's default bandwidth period, which the kubelet uses: a throttled thread waits for the next one."""


def thread_budget(cores: float) -> int:
    """Threads that may run at once under a quota of `cores` > 0: all of it can be used, none is started in vain."""
    return max(1, math.ceil(cores - 1e-9))


def speed_of(cores: float, threads: int) -> float:
    """The share of full speed at which each of `threads` running threads advances under a quota of `cores`."""
    return 1.0 if threads <= cores else cores / threads


def stall_of(speed: float) -> float:
    """Seconds that a batch may be stalled at its end by throttling, beyond what its mean speed says.

    At mean speed s a throttled thread stands still for up to (1 - s) of a period at a time.
    """
    return CFS_PERIOD_S * (1.0 - speed)


@dataclass(init=False, slots=True)
class Running:
    """A running batch: its threads, its work left in seconds at full speed, and the earliest deadline in it."""

    threads: int
    left_s: float
    deadline: float

    # Written out: a generated one stays interpreted where the rest is compiled, and a projection makes hundreds.
    def __init__(self, threads: int, left_s: float, deadline: float) -> None:
        self.threads = threads
        self.left_s = left_s
        self.deadline = deadline


class RunningSet:
    """The running batches of one server by key, with their work accounted for as they share the quota."""

    def __init__(self, cores: float, now: float = 0.0) -> None:
        self._cores = cores
        self._now = now
        self._batches: dict[int, Running] = {}
        self._threads = 0

    @property
    def cores(self) -> float:
        return self._cores

    @property
    def threads(self) -> int:
        """Threads of all running batches together."""
        return self._threads

    def __len__(self) -> int:
        return len(self._batches)

    def start(self, key: int, threads: int, work_s: float, deadline: float, now: float) -> None:
        """A batch of `work_s` seconds at full speed starts on `threads` threads."""
        self._advance(now)
        self._batches[key] = Running(threads, work_s, deadline)
        self._threads += threads

    def finish(self, key: int, now: float) -> Running:
        """The batch is done, whatever was predicted; returns it. Raises KeyError when it is not running."""
        self._advance(now)
        batch = self._batches.pop(key)
        self._threads -= batch.threads
        return batch

    def set_cores(self, cores: float, now: float) -> None:
        """The quota changed."""
        self._advance(now)
        self._cores = cores

    def snapshot(self, now: float) -> tuple[Running, ...]:
        """Every running batch with its work left at `now`, in order of start."""
        self._advance(now)
        return tuple(Running(b.threads, b.left_s, b.deadline) for b in self._batches.values())

    def live(self, now: float) -> list[Running]:
        """As `snapshot`, without copies: read it before the set changes."""
        self._advance(now)
        return list(self._batches.values())

    def next_finish(self, now: float) -> tuple[int, float] | None:
        """Key and predicted time of the batch that ends first if nothing changes; None when none runs."""
        self._advance(now)
        if not self._batches:
            return None
        first, least = -1, float("inf")
        for key, batch in self._batches.items():
            if batch.left_s < least:
                first, least = key, batch.left_s
        return first, now + least / speed_of(self._cores, self._threads)

    def _advance(self, now: float) -> None:
        elapsed = now - self._now
        if elapsed > 0:
            done = elapsed * speed_of(self._cores, self._threads)
            for batch in self._batches.values():
                # A batch that overruns its prediction has "nothing left" until it really ends.
                left = batch.left_s - done
                batch.left_s = left if left > 0.0 else 0.0
            self._now = now
