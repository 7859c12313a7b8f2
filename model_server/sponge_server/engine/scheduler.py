"""The state that decisions are made from, and the only place that changes it: queue, batches, cores, latency model.

Pure: time comes in as an argument, nothing is awaited. Wraps a dispatch policy of the core: carries out on its own
books what that decides, and keeps the account that the next decision needs. Knows nothing of lanes, sockets or clocks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from sponge_core.cpu_sharing import MIN_CORES, Running, RunningSet, speed_of, thread_budget
from sponge_core.dispatch.decision import DispatchState, Limits, Shed
from sponge_core.dispatch.moldable_edf import fastest_s
from sponge_core.dispatch.registry import Dispatcher, MoldableEdf
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.latency import LatencyModel
from sponge_server.engine.calibration import Correction, Drift

__all__ = ["Batch", "Scheduler", "Turn"]


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that was started. `work_s` is predicted at full speed; `speed` is its share of that at the start."""

    key: int
    requests: tuple[Request, ...]
    threads: int
    work_s: float
    speed: float
    started: float

    @property
    def model(self) -> int:
        return self.requests[0].model


@dataclass(frozen=True, slots=True)
class Turn:
    """What to do now: run `batches`, refuse `sheds`, and ask again at `wake_at` at the latest."""

    batches: tuple[Batch, ...]
    sheds: tuple[Shed, ...]
    wake_at: float | None


@dataclass(slots=True)
class _Account:
    """What a running batch was predicted to need, and where the clock of full-speed work stood when it began."""

    batch: Batch
    profile_s: float
    work_clock: float
    shared: bool = False


class Scheduler:
    """Books of one server. Its models are known by their index; they share one order of requests, cores and lanes."""

    def __init__(
        self,
        profiles: Sequence[LatencyModel],
        cores: float,
        batch_cap: int,
        max_cores: float,
        now: float,
        dispatcher: Dispatcher | None = None,
    ) -> None:
        self._dispatcher = dispatcher or MoldableEdf()
        self._queue = EdfQueue()
        self._running = RunningSet(cores, now)
        self._accounts: dict[int, _Account] = {}
        self._corrections = [Correction() for _ in profiles]
        self._drifts = [Drift() for _ in profiles]
        self._profiles = tuple(profiles)
        self._models = list(profiles)
        self._batch_cap = batch_cap
        self._max_cores = max_cores
        self._cores = cores
        self._overhead = 0.0
        self._next_key = 0
        self._work_clock = 0.0
        self._clock_at = now

    @property
    def queue(self) -> EdfQueue:
        return self._queue

    @property
    def cores(self) -> float:
        """The quota in force."""
        return self._cores

    @property
    def overhead(self) -> float:
        """Cores of the quota that are used beside the batches."""
        return self._overhead

    @property
    def budget(self) -> int:
        """Threads that may run at once on what the quota leaves for batches."""
        return thread_budget(self._running.cores)

    @property
    def threads_running(self) -> int:
        return self._running.threads

    @property
    def batches_running(self) -> int:
        return len(self._running)

    @property
    def batch_cap(self) -> int:
        return self._batch_cap

    @property
    def models(self) -> Sequence[LatencyModel]:
        """The profiles, corrected by what was measured since."""
        return self._models

    @property
    def ratios(self) -> list[float]:
        """By model: measured over predicted work, smoothed."""
        return [correction.ratio for correction in self._corrections]

    @property
    def drifted(self) -> bool:
        """Whether the profile of some model has been far off for a while."""
        return any(drift.drifted for drift in self._drifts)

    def limits(self, lanes: int, batch_cap: int | None = None) -> Limits:
        """Bounds of a decision with so many lanes, under the batch cap in force unless another is given."""
        # A boost for the start, or a range that shrank, may leave more in force than the plan may give.
        return Limits(batch_cap or self._batch_cap, lanes, max(self._max_cores, self._running.cores))

    def least_s(self) -> float:
        """No request can be answered sooner than this many seconds after it was queued, at any size."""
        cores = self._net(self._max_cores)
        return min(fastest_s(model, cores) for model in self._models)

    def ahead(self, deadline: float) -> tuple[int, float]:
        """The rows that wait with earlier deadlines, and their time at the least: at their cheapest, on the most
        cores."""
        rows, ahead_s = 0, 0.0
        for model, line in zip(self._models, self._queue.deadlines, strict=False):
            row_s = min(model.latency(1, 1), model.latency(self._batch_cap, 1) / self._batch_cap)
            earlier = bisect_left(line, deadline)
            rows += earlier
            ahead_s += earlier * row_s
        return rows, ahead_s / self._net(self._max_cores)

    def backlog_s(self) -> float:
        """About how long what waits keeps the cores busy, in the largest batches on one thread each."""
        cap = self._batch_cap
        row_s = max(model.latency(cap, 1) for model in self._models) / cap
        return len(self._queue) * row_s / self._running.cores

    def running(self, now: float) -> tuple[Running, ...]:
        return self._running.snapshot(now)

    def set_cores(self, cores: float, now: float) -> None:
        """The quota in force changed. A smaller one binds new batches only; those that run keep their threads."""
        self._cores = cores
        self._share(now)

    def set_overhead(self, overhead: float, now: float) -> None:
        """What is used beside the batches changed, in cores."""
        self._overhead = overhead
        self._share(now)

    def set_batch_cap(self, batch_cap: int) -> None:
        self._batch_cap = batch_cap

    def set_max_cores(self, max_cores: float) -> None:
        """The most that a plan may give from now on: admission counts on it."""
        self._max_cores = max_cores

    def add(self, request: Request) -> None:
        """A request starts to wait. Raises ValueError when its id waits already."""
        self._queue.push(request)

    def withdraw(self, request_id: int) -> bool:
        """Takes a waiting request back; False when it no longer waits."""
        return self._queue.discard(request_id) is not None

    def turn(self, now: float, idle_lanes: int) -> Turn:
        """Decides, and books what was decided: launched and shed requests leave the queue, batches start to run."""
        lanes = idle_lanes + len(self._running)
        if lanes == 0:
            return self._without_lanes(now)
        limits = Limits(self._batch_cap, lanes, self._net(self._max_cores))
        running = self._running.snapshot(now)
        decision = self._dispatcher.decide(
            DispatchState(now, self._queue, running, self._running.cores, self._models, limits)
        )
        for shed in decision.sheds:
            self._queue.discard(shed.request.id)
        batches = []
        for launch in decision.launches:
            for request in launch.requests:
                self._queue.discard(request.id)
            batches.append(self._start(launch.requests, launch.threads, launch.work_s, now))
        return Turn(tuple(batches), decision.sheds, decision.wake_at)

    def finish(self, key: int, now: float, cpu_s: float) -> float:
        """A batch ended and every item was answered. Returns measured over predicted work, by the uncorrected profile.

        Args:
            cpu_s: CPU time of the lane. A batch on one thread that shared a scarce quota is judged by it: its wall time
                depends on where in the kernel's period the throttling fell, which says nothing about the model.
        """
        account = self._end(key, now)
        requests = account.batch.requests
        earliest = min(request.deadline for request in requests)
        self._dispatcher.ended(account.batch.model, len(requests), now <= earliest)
        measured_s = self._work_clock - account.work_clock
        if account.shared and account.batch.threads == 1:
            measured_s = cpu_s
        model = account.batch.model
        correction = self._corrections[model]
        ratio = correction.observe(account.profile_s, measured_s, account.batch.threads)
        self._models[model] = correction.corrected(self._profiles[model])
        self._drifts[model].observe(now, correction.ratio)
        return ratio

    def abandon(self, key: int, now: float) -> None:
        """A batch ended, and its time says nothing: it was lost, or some of its items could not be computed."""
        self._end(key, now)

    def _start(self, requests: tuple[Request, ...], threads: int, work_s: float, now: float) -> Batch:
        self._tick(now)
        self._next_key += 1
        self._running.start(self._next_key, threads, work_s, min(request.deadline for request in requests), now)
        speed = speed_of(self._running.cores, self._running.threads)
        batch = Batch(self._next_key, requests, threads, work_s, speed, now)
        self._accounts[batch.key] = _Account(
            batch, work_s / self._corrections[batch.model].factor(threads), self._work_clock
        )
        self._mark_shared()
        return batch

    def _end(self, key: int, now: float) -> _Account:
        self._tick(now)
        self._running.finish(key, now)
        return self._accounts.pop(key)

    def _without_lanes(self, now: float) -> Turn:
        """Every lane is being replaced: nothing can start, but what is overdue is still answered."""
        sheds = tuple(Shed(request, "expired") for request in self._queue if request.deadline <= now)
        for shed in sheds:
            self._queue.discard(shed.request.id)
        head = self._queue.head()
        return Turn((), sheds, head.deadline if head else None)

    def _tick(self, now: float) -> None:
        """Advances the clock of full-speed work: what one thread could do since, given its share of the quota."""
        if now > self._clock_at:
            speed = speed_of(self._running.cores, self._running.threads)
            self._work_clock += (now - self._clock_at) * speed
            self._clock_at = now

    def _net(self, cores: float) -> float:
        return max(cores - self._overhead, MIN_CORES)

    def _share(self, now: float) -> None:
        self._tick(now)
        self._running.set_cores(self._net(self._cores), now)
        self._mark_shared()

    def _mark_shared(self) -> None:
        if self._running.threads > self._running.cores:
            for account in self._accounts.values():
                account.shared = True
