"""Engine: queues requests, dispatches batches to the lanes, and answers.

It carries out the scheduler's decisions and tells its observers about every request and batch. It runs on one event
loop. The clock is a parameter so that tests can use virtual time; timers use the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from sponge_core.control_api import Outcome
from sponge_core.cpu_sharing import thread_budget
from sponge_core.deadlines import Due
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_server.engine.failures import Part, parts_of, row_error, shed_error, why_not_again
from sponge_server.engine.fit_waiters import FitWaiters
from sponge_server.engine.jobs import Batch, Job, Row, joined
from sponge_server.engine.scheduler import Scheduler
from sponge_server.model_handle import ModelHandle
from sponge_server.observability.observers import Listeners, RequestObserver
from sponge_server.results import (
    CancelledRequestError,
    FailedError,
    InferenceResult,
    RejectedError,
    RequestError,
    ShedError,
    Timing,
)
from sponge_server.workers.interface import Item, ItemError, Lane, LaneError, LanePool, LaneResult, Tensor
from sponge_system.logs import event

__all__ = ["Engine"]

log = logging.getLogger(__name__)

HANG_FACTOR = 20.0
"""A batch counts as hung after this many times its predicted time."""

HANG_AT_LEAST_S = 5.0
"""Never treat a batch as hung before this time: a page fault or a shrinking quota can stall a short one for long."""

FORMER_HANG_S = 120.0
"""The same for a batch of a version that another has replaced: no profile predicts its time any more."""

DECODED_PER_S = 5e6
"""Pixels that a lane decodes in a second on one core, at the very least: the largest image takes a second or two, which
the prediction does not know."""

BUG_PAUSE_S = 0.1
"""After an error of the server itself, the next decision is tried this much later."""

SHORTEST_TIMER_S = 0.001
"""The loop's timers count milliseconds; a shorter one would fire at once and spin."""


class Engine:
    """Runs the requests of one server."""

    def __init__(
        self,
        pool: LanePool,
        scheduler: Scheduler,
        models: Sequence[ModelHandle],
        observers: Sequence[RequestObserver],
        *,
        clock: Callable[[], float],
    ) -> None:
        self.scheduler = scheduler
        self.last_activity = clock()
        self._pool = pool
        self._models = list(models)
        self._clock = clock
        self._on = Listeners(observers)
        self._sound: set[int] = set()  # places of what has answered a request
        self._next_id = 0
        self._jobs: set[Job] = set()
        self._waiting: dict[int, Row] = {}
        self._running: dict[int, Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters = FitWaiters()
        self._turn_due = False
        self._timer: asyncio.TimerHandle | None = None
        pool.add_listener(self.poke)

    @property
    def jobs(self) -> int:
        """Requests that were accepted and not answered yet."""
        return len(self._jobs)

    @property
    def running(self) -> dict[int, Batch]:
        """The batch of each busy lane, by lane id. A live view."""
        return self._running

    def submit(self, model: ModelHandle, rows: Sequence[Item], due: Due) -> Job:
        """Queues a request of at least one row.

        In a full queue it takes the places of the most patient requests, which are shed at once. Raises ShedError when
        those that wait are all more urgent, or within the share of their class.
        """
        room = self.scheduler.room
        givers = room.givers(due.slo_class, due.deadline, len(rows))
        if givers is None:
            self.count_refused(model, due, "shed")
            raise ShedError.no_place(len(room), room.most, self.scheduler.backlog_s())
        for row_id in givers:
            if row_id in self._waiting:  # else it left with another row of its request
                self._displace(self._waiting[row_id][0])
        now = self._clock()
        self.last_activity = now
        ids = range(self._next_id, self._next_id + len(rows))
        self._next_id = ids.stop
        future: asyncio.Future[InferenceResult] = asyncio.get_running_loop().create_future()
        sizes = model.info.sizes_of(rows)
        job = Job(model, due, now, future, ids, [None] * len(rows), len(rows), size=max(sizes))
        self._jobs.add(job)
        for row_id, item, size in zip(ids, rows, sizes, strict=True):
            self._waiting[row_id] = (job, item)
            self.scheduler.add(
                Request(row_id, now, due.deadline, due.sent, due.slo_class, model.index, size, due.floor)
            )
        for notify in self._on.request_arrived:
            notify(job)
        self.poke()
        return job

    def cancel(self, job: Job) -> None:
        """The client left: waiting rows leave the queue; running rows finish and their outputs are dropped."""
        if job in self._jobs:
            self._fail(job, CancelledRequestError("the client left"), "cancelled")
            self.poke()

    def count_refused(self, model: ModelHandle, due: Due, outcome: Outcome) -> None:
        """Counts a request that ended before it was queued: refused, or lost during its upload."""
        self.last_activity = now = self._clock()
        for notify in self._on.request_refused:
            notify(model, due, outcome, now)

    def requests_pending(self) -> None:
        """Tells the observers that requests wait: in the queue, or for the rest of their body."""
        for notify in self._on.requests_pending:
            notify()

    def set_cores(self, cores: float) -> None:
        """Sets the CPU quota in force, in cores."""
        self.scheduler.set_cores(cores, self._clock())
        self._waiters.release(self.scheduler.threads_running)
        self.poke()

    def set_self_usage(self, cores: float) -> None:
        """Sets how many cores of the quota the server itself uses beside the batches."""
        self.scheduler.set_self_usage(cores, self._clock())
        self.poke()

    def set_batch_cap(self, batch_cap: int) -> None:
        """Sets the largest batch of any model, in rows."""
        self.scheduler.set_batch_cap(batch_cap)
        self.poke()

    def take_over(self, model: ModelHandle, profile: LatencyModel) -> None:
        """Another version of a model serves from now on; requests that came for the former still run on it."""
        self._models[model.index] = model
        self.scheduler.set_profile(model.index, profile)
        self.poke()

    def set_max_cores(self, max_cores: float) -> None:
        """Sets the largest size that a plan may give: requests that are hopeless even then are shed at once."""
        self.scheduler.set_max_cores(max_cores)
        self.poke()

    def set_driven(self, driven: bool) -> None:
        """Sets whether somebody resizes the server as it needs; else only what it has now counts for shedding."""
        self.scheduler.set_driven(driven)
        self.poke()

    def now(self) -> float:
        """Monotonic seconds of the clock that batches and deadlines are on."""
        return self._clock()

    async def fits(self, cores: float) -> None:
        """Returns once the threads in use fit the thread budget of `cores`."""
        await self._waiters.wait(thread_budget(cores), self.scheduler.threads_running)

    def fail_all(self) -> None:
        """Fails every unanswered request: the server stops."""
        for job in list(self._jobs):
            self._fail(job, FailedError("the server stopped before this request could be answered"), "error")

    def poke(self) -> None:
        """Something changed: decide again, once for everything that happens in this turn of the loop."""
        if not self._turn_due:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        now = self._clock()
        try:
            self._decide(now)
        except Exception:
            log.exception("engine.bug")
            self._arm(now + BUG_PAUSE_S, now)
            self._give_up(now)

    def _decide(self, now: float) -> None:
        taken = self._running
        idle = [lane for lane in self._pool.lanes if lane.healthy and not lane.busy and lane.id not in taken]
        turn = self.scheduler.turn(now, len(idle))
        for batch, lane in zip(turn.batches, idle, strict=False):
            self._launch(batch, lane)
        for shed in turn.sheds:
            row = self._waiting.get(shed.request.id)
            if row is not None:  # None: another row of its request was shed just before, and took this one along
                self._shed(row[0], shed.reason, now)
        waits = len(self.scheduler.queue) > 0
        for notify in self._on.turn_taken:
            notify(turn, waits)
        self._arm(turn.wake_at, now)
        if waits:
            self.requests_pending()

    def _give_up(self, now: float) -> None:
        """After a turn that broke off: frees the threads of batches that it did not launch, and answers what nobody
        will decide about any more.
        """
        for batch in self.scheduler.batches:
            if batch not in self._running.values():
                self.scheduler.abandon(batch, now)
        queue, waiting = self.scheduler.queue, self._waiting.items()
        for job in {job for row_id, (job, _) in waiting if job.due.deadline <= now or row_id not in queue}:
            self._fail(job, FailedError("an error of the server kept this request waiting; its log says more"), "error")

    def _arm(self, wake_at: float | None, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake_at is not None:
            delay = max(wake_at - now, SHORTEST_TIMER_S)
            self._timer = asyncio.get_running_loop().call_later(delay, self.poke)

    def _launch(self, batch: Batch, lane: Lane) -> None:
        batch.lane = lane.id
        rows = [(request, self._waiting.pop(request.id)) for request in batch.requests]
        current, together = self._models[batch.model], True
        for _, (job, _) in rows:
            job.batch = batch
            together = together and not job.retried and job.model is current
        parts = [rows] if together else parts_of(rows)
        self._running[lane.id] = batch
        task = asyncio.get_running_loop().create_task(self._run(batch, parts, lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        for notify in self._on.batch_started:
            notify(batch)

    async def _run(self, batch: Batch, parts: Sequence[Part], lane: Lane) -> None:
        """One batch from launch to answers, whatever happens."""
        try:
            await self._run_parts(batch, parts, lane)
        except Exception as error:
            log.exception("lane.bug")
            if self._running.get(lane.id) is batch:
                self._release(batch)
            for job in {job for part in parts for _, (job, _) in part} & self._jobs:
                self._fail(job, FailedError(f"the batch could not be run: {error}"), "error")
        finally:
            self._waiters.release(self.scheduler.threads_running)
            self.poke()

    async def _run_parts(self, batch: Batch, parts: Sequence[Part], lane: Lane) -> None:
        """The parts run one after another. A lost lane costs the part that it ran."""
        pixels = sum(item.pixels for part in parts for _, (_, item) in part)
        timeout_s = max(HANG_AT_LEAST_S, HANG_FACTOR * batch.predicted_s)
        timeout_s += pixels / DECODED_PER_S / min(1.0, self.scheduler.cores)
        done = 0
        try:
            for part in parts:
                model = part[0][1][0].model
                current = model is self._models[batch.model]
                limit_s = timeout_s if current else max(timeout_s, FORMER_HANG_S)
                place = model.variants[batch.variant - 1].index if batch.variant else model.place
                result = await lane.run([item for _, (_, item) in part], batch.threads, limit_s, place)
                done += 1
                ended = self._clock()
                if done == len(parts):
                    self._release(batch, result if done == 1 and model is self._models[batch.model] else None)
                if not all(isinstance(outputs, ItemError) for outputs in result.outputs):
                    self._sound.add(place)
                for (request, (job, item)), outputs in zip(part, result.outputs, strict=True):
                    job.queue_s = max(job.queue_s, batch.started - job.arrival)
                    job.batch_s = max(job.batch_s, ended - batch.started - result.batch_s)
                    job.infer_s = max(job.infer_s, result.batch_s)
                    job.variant = max(job.variant, batch.variant)
                    self._row_done(job, item, request.id - job.ids.start, outputs, place in self._sound)
        except LaneError as error:
            self._release(batch)
            self._retry(batch, parts[done], error)
            for part in parts[done + 1 :]:
                self._queue_again(part)

    def _release(self, batch: Batch, result: LaneResult | None = None) -> None:
        """Frees the threads of a batch, and learns from its time if every row has outputs."""
        now = self._clock()
        self.last_activity = now
        del self._running[batch.lane]
        ratio = None
        if result is None or any(isinstance(outputs, ItemError) for outputs in result.outputs):
            self.scheduler.abandon(batch, now)
        else:
            ratio = self.scheduler.finish(batch, now, result.cpu_s)
        for notify in self._on.batch_finished:
            notify(batch, now)
        if result is not None and ratio is not None:
            for notify_measured in self._on.batch_measured:
                notify_measured(batch, result, ratio, now)

    def _row_done(self, job: Job, item: Item, index: int, outputs: tuple[Tensor, ...] | ItemError, sound: bool) -> None:
        if job not in self._jobs:
            return
        now = self._clock()
        on_time: Outcome = "in_time" if now <= job.due.deadline else "late"
        if isinstance(outputs, ItemError):
            error = row_error(job, item, index, outputs, sound)
            self._fail(job, error, on_time if isinstance(error, RejectedError) else "error")
            return
        job.rows[index] = outputs
        job.missing -= 1
        if job.missing == 0:
            timing = Timing(job.arrival - job.due.sent, job.queue_s, job.batch_s, job.infer_s)
            try:
                job.future.set_result(InferenceResult(joined(job.rows), timing, job.model.answered_by(job.variant)))
            except RejectedError as error:
                job.future.set_exception(error)
                job.future.exception()  # a client that left never looks at it
            self._close(job, on_time, now)

    def _retry(self, batch: Batch, part: Part, error: LaneError) -> None:
        """A lane was lost: its requests are queued once more if their deadlines allow, else they fail."""
        now = self._clock()
        model = self._models[batch.model]
        event(
            log, "lane.lost", logging.WARNING, model=model.info.name, rows=len(part), threads=batch.threads, cause=error
        )
        for notify in self._on.lane_lost:
            notify(batch)
        own = self.scheduler.models[batch.model].of_batch([request.size for request in batch.requests])
        fastest_s = own.latency(1, self.scheduler.budget)
        again = []
        for request, row in part:
            job = row[0]
            if job not in self._jobs:
                continue
            failed = why_not_again(request, job, now, fastest_s, error)
            if failed is not None:
                self._fail(job, failed, "error")
            else:
                job.retried.add(request.id)
                again.append((request, row))
        self._queue_again(again)

    def _queue_again(self, part: Part) -> None:
        for request, row in part:
            if row[0] in self._jobs:
                self._waiting[request.id] = row
                self.scheduler.add(request)

    def _displace(self, job: Job) -> None:
        self._fail(job, ShedError.displaced(self._clock() - job.arrival, self.scheduler.backlog_s()), "shed")
        for notify in self._on.request_displaced:
            notify(job)

    def _shed(self, job: Job, reason: str, now: float) -> None:
        error = shed_error(job, reason, now, self.scheduler.backlog_s())
        outcome: Outcome = "error"
        if not isinstance(error, FailedError):
            outcome = "shed" if isinstance(error, ShedError) else "expired"
        self._fail(job, error, outcome)

    def _fail(self, job: Job, error: RequestError, outcome: Outcome) -> None:
        for row_id in job.ids:
            if self._waiting.pop(row_id, None) is not None:
                self.scheduler.withdraw(row_id)
        job.future.set_exception(error)
        # A client that left never looks at the result; that is no error of ours.
        job.future.exception()
        self._close(job, outcome, self._clock())

    def _close(self, job: Job, outcome: Outcome, now: float) -> None:
        self._jobs.remove(job)
        for notify in self._on.request_ended:
            notify(job, outcome, now)
