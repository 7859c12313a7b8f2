"""Scheduler state: queue, running batches, cores and latency models, and the only code that changes it.

It asks a dispatch policy of the core what to do and applies the decision to this state. Pure: time is an argument, and
nothing is awaited.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Sequence

from sponge_core.calibration import Calibration, Drift
from sponge_core.cpu_sharing import MIN_CORES, Running, RunningSet, speed_of, thread_budget
from sponge_core.dispatch.decision import DispatchState, Launch, Limits, Shed, Variant
from sponge_core.dispatch.registry import Dispatcher, MoldableEdf
from sponge_core.dispatch.step import fastest_s
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.latency import LatencyModel
from sponge_core.queue_room import QueueRoom
from sponge_server.engine.jobs import Batch, Turn
from sponge_server.model_handle import ServedVariant

__all__ = ["Scheduler"]


class Scheduler:
    """The state of one server. Models are known by index; they share one deadline order, the cores and the lanes."""

    def __init__(
        self,
        profiles: Sequence[LatencyModel],
        cores: float,
        batch_cap: int,
        max_cores: float,
        now: float,
        dispatcher: Dispatcher | None = None,
        room: QueueRoom | None = None,
        variants: Sequence[ServedVariant] = (),
    ) -> None:
        """State without requests.

        Args:
            profiles: latency model of each model, by index.
            cores: CPU quota in force, in cores, > 0.
            batch_cap: largest batch of any model, in rows, >= 1.
            max_cores: the most cores that a plan may give; admission relies on it while somebody carries out the plan.
            now: time on the caller's clock, in seconds.
            dispatcher: dispatch policy; moldable EDF by default.
            room: the places of the queue, all free; by default more than anybody fills.
            variants: of the one model, the most accurate first.
        """
        self._dispatcher = dispatcher or MoldableEdf()
        self._queue = EdfQueue()
        self.room = QueueRoom(sys.maxsize, {}) if room is None else room
        self._running = RunningSet(cores, now)
        self._batches: dict[int, Batch] = {}
        # The models, then the variants.
        self._profiles = [*profiles, *(variant.profile for variant in variants)]
        self._calibrations = [Calibration() for _ in self._profiles]
        self._drifts = [Drift() for _ in self._profiles]
        self._models = list(profiles)
        self._variants = [Variant(variant.accuracy, variant.profile) for variant in variants]
        self._batch_cap = batch_cap
        self._max_cores = max_cores
        self._driven = True
        self._cores = cores
        self._self_usage = 0.0
        self._next_key = 0
        self._work_clock = 0.0
        self._clock_at = now

    @property
    def queue(self) -> EdfQueue:
        return self._queue

    @property
    def batches(self) -> Sequence[Batch]:
        """The running batches."""
        return tuple(self._batches.values())

    @property
    def cores(self) -> float:
        """The CPU quota in force, in cores."""
        return self._cores

    @property
    def batch_cores(self) -> float:
        """What the quota in force leaves for batches, in cores."""
        return self._running.cores

    @property
    def most_batch_cores(self) -> float:
        """What the largest size that admission relies on leaves for batches, in cores."""
        return self._net(self._most_cores)

    @property
    def self_usage(self) -> float:
        """Cores of the quota that the server itself uses beside the batches."""
        return self._self_usage

    @property
    def budget(self) -> int:
        """Thread budget: threads that may run at once on the part of the quota left for batches."""
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
        """The profiles, calibrated by the batches measured since."""
        return self._models

    @property
    def ratios(self) -> list[float]:
        """Measured over predicted work, smoothed, by model."""
        return [calibration.ratio for calibration in self._calibrations]

    @property
    def drifted(self) -> bool:
        """Whether the profile of some model has been far off for a while."""
        return any(drift.drifted for drift in self._drifts)

    def limits(self, lanes: int, batch_cap: int | None = None) -> Limits:
        """Bounds of a decision with `lanes` lanes and, unless given, the batch cap in force."""
        # A boost for the start, or a range that shrank, may leave more in force than the plan may give.
        return Limits(batch_cap or self._batch_cap, lanes, max(self._max_cores, self._running.cores))

    def least_s(self) -> float:
        """Least seconds from queueing to the answer of any request, at any size that the server can get."""
        cores = self.most_batch_cores
        cheaper = [variant.latency for variant in self._variants]
        # Of the smallest possible request, where they differ in size.
        return min(fastest_s(model.at(0.0), cores) for model in (*self._models, *cheaper))

    def ahead(self, deadline: float) -> tuple[int, float]:
        """Number of queued rows due before `deadline`, and the least seconds they need on the most cores."""
        rows, ahead_s = 0, 0.0
        for index, (model, line) in enumerate(zip(self._models, self._queue.deadlines, strict=False)):
            earlier = bisect_left(line, deadline)
            rows += earlier
            if self._variants:
                model = self._variants[-1].latency  # as if the cheapest answered them all
            if model.sizes is None:
                ahead_s += earlier * _least_row_s(model, self._batch_cap)
            else:
                sizes = self._queue.sizes[index][:earlier]
                ahead_s += sum(_least_row_s(model.at(size), self._batch_cap) for size in sizes)
        return rows, ahead_s / self.most_batch_cores

    def backlog_s(self) -> float:
        """Estimated seconds that the queue keeps the cores busy, in the largest batches on one thread each."""
        cap = self._batch_cap
        row_s = max(model.latency(cap, 1) for model in self._models) / cap
        return len(self._queue) * row_s / self._running.cores

    def running(self, now: float) -> tuple[Running, ...]:
        """Every running batch with its work left at `now`."""
        return self._running.snapshot(now)

    def set_cores(self, cores: float, now: float) -> None:
        """Sets the quota in force. A smaller one binds new batches only; running batches keep their threads."""
        self._cores = cores
        self._share(now)

    def set_self_usage(self, cores: float, now: float) -> None:
        """Sets how many cores of the quota the server itself uses beside the batches."""
        self._self_usage = cores
        self._share(now)

    def set_batch_cap(self, batch_cap: int) -> None:
        """Sets the largest batch of any model, in rows."""
        self._batch_cap = batch_cap

    def set_profile(self, model: int, profile: LatencyModel) -> None:
        """Sets the latency model of another version of a model, which nothing has corrected yet."""
        self._profiles[model] = self._models[model] = profile
        self._calibrations[model], self._drifts[model] = Calibration(), Drift()

    def set_max_cores(self, max_cores: float) -> None:
        """Sets the largest size that a plan may give; admission relies on it while the server is driven."""
        self._max_cores = max_cores

    def set_driven(self, driven: bool) -> None:
        """Sets whether somebody resizes the server as it needs; else admission relies on the size in force alone."""
        self._driven = driven

    def add(self, request: Request) -> None:
        """Queues a row. Raises ValueError when its id is queued already."""
        self._queue.push(request)
        self.room.entered(request)

    def withdraw(self, request_id: int) -> bool:
        """Removes a row from the queue; False when it is no longer there."""
        request = self._queue.discard(request_id)
        if request is None:
            return False
        self.room.left(request)
        return True

    def turn(self, now: float, idle_lanes: int) -> Turn:
        """Decides and applies the decision: launched and shed rows leave the queue, launched batches start to run."""
        lanes = idle_lanes + len(self._running)
        if lanes == 0:
            return self._without_lanes(now)
        limits = Limits(self._batch_cap, lanes, self.most_batch_cores)
        running = self._running.snapshot(now)
        decision = self._dispatcher.decide(
            DispatchState(
                now,
                self._queue,
                running,
                self._running.cores,
                self._models,
                limits,
                (self._variants,) if self._variants else (),
            )
        )
        for shed in decision.sheds:
            self.withdraw(shed.request.id)
        batches = []
        for launch in decision.launches:
            for request in launch.requests:
                self.withdraw(request.id)
            batches.append(self._start(launch, now))
        return Turn(tuple(batches), decision.sheds, decision.wake_at)

    def finish(self, batch: Batch, now: float, cpu_s: float) -> float:
        """Ends a batch whose rows all have outputs, and calibrates its model's profile.

        Args:
            cpu_s: CPU seconds of the lane. They judge a batch on one thread that shared a scarce quota: its wall time
                depends on where in the kernel's period the throttling fell, which says nothing about the model.

        Returns:
            Measured over predicted work, by the uncalibrated profile.
        """
        self._end(batch, now)
        model, requests = batch.model, batch.requests
        earliest = min(request.deadline for request in requests)
        self._dispatcher.ended(model, len(requests), now <= earliest)
        measured_s = self._work_clock - batch.work_clock
        if batch.shared and batch.threads == 1:
            measured_s = cpu_s
        ran = self._ran(model, batch.variant)
        calibration = self._calibrations[ran]
        size = None if self._profiles[ran].sizes is None else max(request.size for request in requests)
        ratio = calibration.observe(batch.profile_s, measured_s, batch.threads, size)
        calibrated = calibration.calibrated(self._profiles[ran])
        if batch.variant == 0:
            self._models[model] = calibrated
        else:
            self._variants[batch.variant - 1] = self._variants[batch.variant - 1]._replace(latency=calibrated)
        self._drifts[ran].observe(now, calibration.ratio)
        return ratio

    def abandon(self, batch: Batch, now: float) -> None:
        """Ends a batch whose time says nothing: its lane was lost, or some of its rows failed."""
        self._end(batch, now)

    def _start(self, launch: Launch, now: float) -> Batch:
        self._tick(now)
        self._next_key += 1
        requests, threads, work_s = launch.requests, launch.threads, launch.work_s
        model = requests[0].model
        ran = self._ran(model, launch.variant)
        profile = self._profiles[ran]
        profile_s = work_s / self._calibrations[ran].factor(threads)
        if profile.sizes is not None:
            own = profile.of_batch([request.size for request in requests])
            profile_s = own.latency(len(requests), threads) * own.slowdown(len(self._running))
        self._running.start(self._next_key, threads, work_s, min(request.deadline for request in requests), now)
        batch = Batch(
            self._next_key,
            model,
            requests,
            threads,
            work_s,
            predicted_s=work_s / speed_of(self._running.cores, self._running.threads),
            started=now,
            profile_s=profile_s,
            work_clock=self._work_clock,
            variant=launch.variant,
        )
        self._batches[batch.key] = batch
        self._mark_shared()
        return batch

    def _ran(self, model: int, variant: int) -> int:
        """The place of what runs a batch among the models and variants."""
        return model if variant == 0 else len(self._models) + variant - 1

    def _end(self, batch: Batch, now: float) -> None:
        self._tick(now)
        self._running.finish(batch.key, now)
        del self._batches[batch.key]

    def _without_lanes(self, now: float) -> Turn:
        """Every lane is being replaced: nothing can start, but overdue rows are still answered."""
        sheds = tuple(Shed(request, "expired") for request in self._queue if request.deadline <= now)
        for shed in sheds:
            self.withdraw(shed.request.id)
        head = self._queue.head()
        return Turn((), sheds, head.deadline if head else None)

    def _tick(self, now: float) -> None:
        """Advances the clock of full-speed work: what one thread could do since, given its share of the quota."""
        if now > self._clock_at:
            speed = speed_of(self._running.cores, self._running.threads)
            self._work_clock += (now - self._clock_at) * speed
            self._clock_at = now

    @property
    def _most_cores(self) -> float:
        return self._max_cores if self._driven else self._cores

    def _net(self, cores: float) -> float:
        """What `cores` leave for batches."""
        return max(cores - self._self_usage, MIN_CORES)

    def _share(self, now: float) -> None:
        self._tick(now)
        self._running.set_cores(self._net(self._cores), now)
        self._mark_shared()

    def _mark_shared(self) -> None:
        # The server's own use is left out: it delays a batch, as it will delay the next one, and hardly throttles it.
        if self._running.threads > self._cores:
            for batch in self._batches.values():
                batch.shared = True


def _least_row_s(model: LatencyModel, cap: int) -> float:
    """The least core-seconds of a row, alone or in a batch of `cap`."""
    return min(model.latency(1, 1), model.latency(cap, 1) / cap)
