"""Simulates one replica: its batches, as predicted and in truth, and its resizes.

A dispatch policy sees the predicted state of the batches. The true state decides when a batch ends, under a quota that
is enforced evenly or, as the kernel does, in periods. The steps of a resize have the order of the product
(`sponge_core.planning.resize_order`): a larger size is in force one resize time after the request; a smaller one
lowers the thread budget at once, and the quota follows when the running batches fit it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from sponge_core.cpu_sharing import MIN_CORES, Running, RunningSet, thread_budget
from sponge_core.dispatch.decision import Decision, Launch
from sponge_core.edf_queue import EdfQueue
from sponge_core.planning.resize_order import Step, next_step
from sponge_simulator.throttling import CpuStat, ThrottledSet

__all__ = ["Replica"]


class Replica:
    """A replica, which is billed `cores` at every moment since its creation.

    Args:
        cores: its first size.
        ready_at: the time from which it serves, in seconds.
        overhead: cores of the quota that work beside the batches uses.
        by_periods: enforce the quota in periods of 100 ms; else evenly.
        threads: of its server, whatever its quota is, which is then enforced in periods; None: as many as fit.

    Attributes:
        retiring: it starts no more batches, and is removed when it is idle.
        next_finish_at: when its next batch ends; infinite if none runs.
        in_force_at: when a resize under way is in force; infinite if there is none.
        requests: the number of requests in its batches.
        busy_s: CPU seconds of its batches so far; who bills it adds them up.
    """

    def __init__(
        self,
        cores: float,
        ready_at: float,
        overhead: float = 0.0,
        by_periods: bool = False,
        threads: int | None = None,
    ) -> None:
        self.ready_at = ready_at
        self.retiring = False
        self.cores = cores
        self.next_finish_at = math.inf
        self.in_force_at = math.inf
        self._wanted = cores
        self._awaits_batches = False  # the smaller budget is in force once the running batches fit it
        self._overhead = overhead
        self._own_threads = threads
        by_periods = by_periods or threads is not None
        self._predicted = RunningSet(self._net(cores))
        self._truth = ThrottledSet(cores, overhead) if by_periods else RunningSet(self._net(cores))
        self._batches: dict[int, tuple[Launch, float]] = {}
        self._next_key = 0
        self.requests = 0
        self.busy_s = 0.0

    @property
    def usable_cores(self) -> float:
        """The cores that new batches may use: at most the size in force, and at most the size to come.

        A server with threads of its own does not look at its quota.
        """
        if self._own_threads is not None:
            return float(self._own_threads)
        return self._net(min(self.cores, self._wanted))

    @property
    def reserved_cores(self) -> float:
        """The cores that the node reserves for it: the size in force, or a larger one that was granted."""
        return max(self.cores, self._wanted)

    @property
    def busy_cores(self) -> float:
        """The cores that its batches use now."""
        return min(self.cores, self._predicted.threads)

    @property
    def idle(self) -> bool:
        """Whether no batch runs."""
        return not self._batches

    @property
    def full(self) -> bool:
        """Whether no thread is free for another batch."""
        return self._predicted.threads >= thread_budget(self.usable_cores)

    def running(self, now: float) -> tuple[Running, ...]:
        """Its batches with their predicted work left."""
        return self._predicted.snapshot(now)

    @property
    def batch_sizes(self) -> list[int]:
        """The number of requests in each of its batches, in the order of `running`."""
        return [len(launch.requests) for launch, _ in self._batches.values()]

    def awake_until(self, now: float) -> float:
        """The last moment up to `now` at which receiving and planning could run; the kernel throttles them as well."""
        return self._truth.ran_until(now) if isinstance(self._truth, ThrottledSet) else now

    def wakes_at(self, now: float) -> float:
        """The first moment from `now` on at which receiving and reporting can run."""
        return self._truth.wakes_at(now) if isinstance(self._truth, ThrottledSet) else now

    def cpu_stat(self, now: float) -> CpuStat | None:
        """The kernel's counters; None where the quota is enforced evenly."""
        return self._truth.stat(now) if isinstance(self._truth, ThrottledSet) else None

    def used_s(self, now: float) -> float:
        """The CPU seconds that it has used so far."""
        stat = self.cpu_stat(now)
        return self.busy_s if stat is None else stat.used_s

    def resize(self, cores: float, now: float, resize_s: float) -> bool:
        """Requests a size; returns whether that began a resize. A quota change under way is not interrupted."""
        if self.in_force_at < math.inf or cores == self._wanted:
            return False
        self._wanted = cores
        if cores == self.cores:
            self._awaits_batches = False
            return False
        smaller = next_step(self.cores, cores, acknowledged=False) is Step.BUDGET
        self._awaits_batches = smaller and self._own_threads is None
        if not self._awaits_batches:
            self.in_force_at = now + resize_s
        return True

    def step(self, now: float, resize_s: float) -> None:
        """Puts a quota in force whose time has come; sends the smaller quota once the batches fit its budget."""
        if self._awaits_batches and self._truth.threads <= thread_budget(self._wanted):
            self._awaits_batches = False
            self.in_force_at = now + resize_s
        if self.in_force_at <= now:
            self.in_force_at = math.inf
            self.cores = self._wanted
            self._predicted.set_cores(self._net(self.cores), now)
            self._truth.set_cores(self.cores if isinstance(self._truth, ThrottledSet) else self._net(self.cores), now)
            self._look_ahead(now)

    def carry_out(self, decision: Decision, queue: EdfQueue, now: float, takes_s: Callable[[Launch], float]) -> None:
        """Starts the batches of a decision; takes these requests, and those to shed, out of the queue.

        Args:
            takes_s: the true time of a batch at full speed.
        """
        for lost in decision.sheds:
            queue.discard(lost.request.id)
        for launch in decision.launches:
            for request in launch.requests:
                queue.discard(request.id)
            self.start(launch, now, takes_s(launch))

    def start(self, launch: Launch, now: float, takes_s: float) -> None:
        """Starts a batch that will truly take `takes_s` seconds at full speed."""
        earliest = min(request.deadline for request in launch.requests)
        self._predicted.start(self._next_key, launch.threads, launch.work_s, earliest, now)
        self._truth.start(self._next_key, launch.threads, takes_s, earliest, now)
        self._batches[self._next_key] = launch, takes_s
        self.requests += len(launch.requests)
        self._next_key += 1
        self._look_ahead(now)

    def finish(self, now: float) -> tuple[Launch, float]:
        """Ends the batch that is due now; returns it and its true work in seconds. Raises ValueError if none runs."""
        found = self._truth.next_finish(now)
        if found is None:
            raise ValueError("no batch runs here")
        self._truth.finish(found[0], now)
        self._predicted.finish(found[0], now)
        self._look_ahead(now)
        launch, took_s = self._batches.pop(found[0])
        self.requests -= len(launch.requests)
        return launch, took_s

    def _net(self, cores: float) -> float:
        return max(cores - self._overhead, MIN_CORES)

    def _look_ahead(self, now: float) -> None:
        found = self._truth.next_finish(now)
        self.next_finish_at = found[1] if found else math.inf
