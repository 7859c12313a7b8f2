"""Models how running batches share a CPU quota, so that their predicted finish times stay true.

With c cores of quota and n > c running threads, the kernel's bandwidth control lets each thread run c/n of the time, so
batches slow each other down. The model follows the work left of each batch as batches start and end and the quota
changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["CFS_PERIOD_S", "MIN_CORES", "CpuLoad", "Running", "RunningSet", "speed_of", "stall_of", "thread_budget"]

CFS_PERIOD_S: Final = 0.1
"""The kernel's default bandwidth period, which the kubelet uses. A throttled thread waits for the next period."""

MIN_CORES: Final = 0.01
"""The smallest quota that the kubelet sets: 1 ms in each period of 100 ms."""


def thread_budget(cores: float) -> int:
    """The number of threads that may run at once under a quota of `cores` > 0: enough to use all of it, no more."""
    return max(1, math.ceil(cores - 1e-9))


def speed_of(cores: float, threads: int) -> float:
    """The speed, as a fraction of full speed, of each of `threads` running threads under a quota of `cores`."""
    return 1.0 if threads <= cores else cores / threads


def stall_of(speed: float) -> float:
    """Seconds that throttling may stall a batch at its end, beyond what its mean speed accounts for.

    At mean speed s a throttled thread stands still for up to (1 - s) of a period at a time.
    """
    return CFS_PERIOD_S * (1.0 - speed)


@dataclass(init=False, slots=True)
class Running:
    """A running batch: its threads, its work left in seconds at full speed, and the earliest deadline in it."""

    threads: int
    left_s: float
    deadline: float

    # Written out because a generated __init__ stays interpreted in a compiled module, and a projection makes hundreds.
    def __init__(self, threads: int, left_s: float, deadline: float) -> None:
        self.threads = threads
        self.left_s = left_s
        self.deadline = deadline


@dataclass(init=False, slots=True)
class CpuLoad:
    """The batches that share a CPU quota at one moment.

    Attributes:
        now: seconds on the caller's clock; the deadlines of the batches are on the same one.
        cores: the quota in force, > 0.
        running: the batches; `add` appends to this list.
        threads: the threads of all batches together.
    """

    now: float
    cores: float
    running: list[Running]
    threads: int

    def __init__(self, now: float, cores: float, running: list[Running]) -> None:  # written out as in `Running`
        threads = 0
        for batch in running:
            threads += batch.threads
        self.now = now
        self.cores = cores
        self.running = running
        self.threads = threads

    def add(self, batch: Running) -> None:
        """Starts one more batch."""
        self.running.append(batch)
        self.threads += batch.threads

    def tolerates(self, more: int) -> bool:
        """Whether every batch that is in time now stays in time when `more` threads start to share the quota."""
        before, after = speed_of(self.cores, self.threads), speed_of(self.cores, self.threads + more)
        for batch in self.running:
            time_left = batch.deadline - self.now
            if batch.left_s / before <= time_left < batch.left_s / after + stall_of(after):
                return False
        return True


class RunningSet:
    """The running batches of one server by key, with their work left as they share the quota."""

    def __init__(self, cores: float, now: float = 0.0) -> None:
        self._cores = cores
        self._now = now
        self._batches: dict[int, Running] = {}
        self._threads = 0

    @property
    def cores(self) -> float:
        """The quota in force."""
        return self._cores

    @property
    def threads(self) -> int:
        """The threads of all running batches together."""
        return self._threads

    def __len__(self) -> int:
        return len(self._batches)

    def start(self, key: int, threads: int, work_s: float, deadline: float, now: float) -> None:
        """Starts a batch of `work_s` seconds at full speed on `threads` threads."""
        self._advance(now)
        self._batches[key] = Running(threads, work_s, deadline)
        self._threads += threads

    def finish(self, key: int, now: float) -> Running:
        """Ends a batch, whatever was predicted, and returns it. Raises KeyError if it is not running."""
        self._advance(now)
        batch = self._batches.pop(key)
        self._threads -= batch.threads
        return batch

    def set_cores(self, cores: float, now: float) -> None:
        """Changes the quota."""
        self._advance(now)
        self._cores = cores

    def snapshot(self, now: float) -> tuple[Running, ...]:
        """Copies of all running batches with their work left at `now`, in the order they started."""
        self._advance(now)
        return tuple(Running(b.threads, b.left_s, b.deadline) for b in self._batches.values())

    def live(self, now: float) -> list[Running]:
        """As `snapshot` without copies: valid until the set changes."""
        self._advance(now)
        return list(self._batches.values())

    def next_finish(self, now: float) -> tuple[int, float] | None:
        """The key and predicted time of the batch that ends first if nothing changes; None if none runs."""
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
                # A batch that overruns its prediction has no work left until it really ends.
                left = batch.left_s - done
                batch.left_s = left if left > 0.0 else 0.0
            self._now = now
