"""One replica in virtual time: its batches as they were predicted and as they really go, its size and its changes.

The predicted account is what a dispatch rule may see; the true one decides when a batch ends, under a quota that is
given out evenly or, as the kernel does, by periods. Steps of a resize come in the production order
(`sponge_core.planning.resize_order`): a larger size is in force one resize time after the request; a smaller one takes
the threads away at once, and the quota follows when the running batches fit it.
"""

from __future__ import annotations

import math

from sponge_core.cpu_sharing import MIN_CORES, Running, RunningSet, thread_budget
from sponge_core.dispatch.decision import Launch
from sponge_core.planning.resize_order import Step, next_step
from sponge_simulator.throttling import ThrottledSet

__all__ = ["Replica"]


class Replica:
    """`ready_at` is when it begins to serve; it is billed from its making on, `cores` at every moment.

    `overhead`: cores that are used beside the batches, out of the same quota.
    """

    def __init__(self, cores: float, ready_at: float, overhead: float = 0.0, by_periods: bool = False) -> None:
        self.ready_at = ready_at
        self.retiring = False
        self.cores = cores
        self.next_finish_at = math.inf
        self.in_force_at = math.inf
        self._wanted = cores
        self._awaits_batches = False  # the smaller budget is in force once the running batches fit it
        self._overhead = overhead
        self._predicted = RunningSet(self._net(cores))
        self._truth = ThrottledSet(cores, overhead) if by_periods else RunningSet(self._net(cores))
        self._batches: dict[int, tuple[Launch, float]] = {}
        self._next_key = 0
        self.requests = 0  # how many are in its batches

    @property
    def usable_cores(self) -> float:
        """What new batches may count on: never more than is in force, nor than is to be."""
        return self._net(min(self.cores, self._wanted))

    @property
    def reserved_cores(self) -> float:
        """What the node may give to nobody else: what is in force, and what has been granted beyond it."""
        return max(self.cores, self._wanted)

    @property
    def busy_cores(self) -> float:
        return min(self.cores, self._predicted.threads)

    @property
    def idle(self) -> bool:
        return not self._batches

    @property
    def full(self) -> bool:
        """No thread is free for another batch."""
        return self._predicted.threads >= thread_budget(self.usable_cores)

    def running(self, now: float) -> tuple[Running, ...]:
        return self._predicted.snapshot(now)

    def awake_until(self, now: float) -> float:
        """The last moment by `now` at which what receives and plans could run: the kernel throttles it with the
        batches."""
        return self._truth.ran_until(now) if isinstance(self._truth, ThrottledSet) else now

    def resize(self, cores: float, now: float, resize_s: float) -> bool:
        """Requests a size; returns whether that began a resize. A quota change under way is not interrupted."""
        if self.in_force_at < math.inf or cores == self._wanted:
            return False
        self._wanted = cores
        if cores == self.cores:
            self._awaits_batches = False
            return False
        self._awaits_batches = next_step(self.cores, cores, acknowledged=False) is Step.BUDGET
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

    def start(self, launch: Launch, now: float, takes_s: float) -> None:
        """A batch begins; it will really take `takes_s` seconds at full speed."""
        earliest = min(request.deadline for request in launch.requests)
        self._predicted.start(self._next_key, launch.threads, launch.work_s, earliest, now)
        self._truth.start(self._next_key, launch.threads, takes_s, earliest, now)
        self._batches[self._next_key] = launch, takes_s
        self.requests += len(launch.requests)
        self._next_key += 1
        self._look_ahead(now)

    def finish(self, now: float) -> tuple[Launch, float]:
        """The batch that ends now, and what it took at full speed. Raises ValueError when none runs."""
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
