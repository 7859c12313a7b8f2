"""Receive, queue, batch, run, answer: carries the scheduler's decisions out on the lanes.

Knows the lanes by their protocol only, nothing of HTTP and nothing of torch. Lives on one event loop. The clock is
passed in so that a test can run it in virtual time; timers use the loop.

A request of several rows waits as several single-row requests of the core, so that the dispatch rule may spread them
over batches; it is answered when the last of them is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sponge_core.control_api import Outcome
from sponge_core.cpu_sharing import thread_budget
from sponge_core.edf_queue import Request
from sponge_server.deadlines import Due
from sponge_server.engine.scheduler import Batch, Scheduler
from sponge_server.model_handle import ServedModel
from sponge_server.observability.logs import event
from sponge_server.observability.observers import Witness
from sponge_server.observability.request_stats import Books
from sponge_server.results import (
    Answer,
    ClientGoneError,
    ExpiredError,
    FailedError,
    RejectedError,
    RequestError,
    ShedError,
    Timing,
)
from sponge_server.workers.interface import (
    Item,
    ItemError,
    Lane,
    LaneError,
    LanePool,
    LaneResult,
    NotFiniteError,
    Tensor,
)

__all__ = ["Engine", "Job", "Observer"]

log = logging.getLogger(__name__)

HANG_FACTOR = 20.0
"""A batch that takes this many times its predicted time is taken for hung."""

HANG_AT_LEAST_S = 5.0
"""No batch is taken for hung before: a page fault or a shrinking quota can stall a short one for long."""

SHORTEST_TIMER_S = 0.001
"""The loop's timers count milliseconds; a shorter one would fire at once and spin."""


@dataclass(eq=False, slots=True)
class Job:
    """One client request on its way through the engine. Await `future` for its Answer; it raises a RequestError."""

    model: ServedModel
    due: Due
    arrival: float
    future: asyncio.Future[Answer]
    ids: range
    rows: list[tuple[Tensor, ...] | None]
    missing: int
    queue_s: float = 0.0
    batch_s: float = 0.0
    infer_s: float = 0.0
    batch: Batch | None = None
    retried: set[int] = field(default_factory=set)


_Row = tuple[Job, Item]
_Part = Sequence[tuple[Request, _Row]]


class Observer(Protocol):
    """Who wants to know what arrives and what waits: the planner."""

    def arrived(self, now: float, remaining_slo_s: float, rows: int, model: int) -> None:
        """A request of so many rows for a model was accepted with so much of its SLO left."""
        ...

    def waiting(self) -> None:
        """Requests keep waiting after a decision: time to look at the frontier."""
        ...


class Engine:
    """The running models of one server."""

    def __init__(
        self,
        pool: LanePool,
        scheduler: Scheduler,
        models: Sequence[ServedModel],
        books: Books,
        *,
        clock: Callable[[], float],
        observer: Observer,
        witnesses: Sequence[Witness] = (),
        max_rows: int = 10_000,
    ) -> None:
        """`max_rows` bounds what waits: a decision looks at all of it."""
        self.scheduler = scheduler
        self.books = books
        self.last_activity = clock()
        self._pool = pool
        self._models = models
        self._clock = clock
        self._observer = observer
        self._witnesses = witnesses
        self._max_rows = max_rows
        self._sound: set[int] = set()
        self._next_id = 0
        self._jobs: set[Job] = set()
        self._waiting: dict[int, _Row] = {}
        self._batches: dict[int, tuple[Batch, Lane]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._fits: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._turn_due = False
        self._timer: asyncio.TimerHandle | None = None
        pool.add_listener(self.poke)

    @property
    def jobs(self) -> int:
        """Requests that were accepted and not answered yet."""
        return len(self._jobs)

    @property
    def running(self) -> dict[int, Batch]:
        """The batch on each lane that runs one, by lane id."""
        return {lane.id: batch for batch, lane in self._batches.values()}

    def submit(self, model: ServedModel, rows: Sequence[Item], due: Due) -> Job:
        """Accepts a request of at least one row: it waits from now on. Raises ShedError when the queue is full."""
        if len(self._waiting) + len(rows) > self._max_rows:
            self.count_lost(model, due, "shed")
            text = f"{len(self._waiting)} rows wait, and at most {self._max_rows} may: slow down, then try again"
            raise ShedError(text, self.scheduler.backlog_s())
        now = self._clock()
        self.last_activity = now
        ids = range(self._next_id, self._next_id + len(rows))
        self._next_id = ids.stop
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        job = Job(model, due, now, future, ids, [None] * len(rows), len(rows))
        self._jobs.add(job)
        for row_id, item in zip(ids, rows, strict=True):
            self._waiting[row_id] = (job, item)
            self.scheduler.add(Request(row_id, now, due.deadline, due.sent, due.slo_class, model.index))
        self._observer.arrived(now, due.deadline - now, len(rows), model.index)
        self.poke()
        return job

    def cancel(self, job: Job) -> None:
        """The client left: waiting rows leave the queue; running ones are not interrupted, their answer is dropped."""
        if job in self._jobs:
            self._fail(job, ClientGoneError("the client left"), "cancelled")
            self.poke()

    def latest_start(self, due: Due) -> float:
        """A request that is not queued by then cannot be met, as far as is known before its body is."""
        return due.deadline - (self.scheduler.least_s() if due.settled else 0.0)

    def refusal(self, due: Due, now: float) -> ShedError | None:
        """Why a request whose headers are in is lost though its body came at once; None when it is not."""
        left_s = due.deadline - now
        least_s = self.scheduler.least_s() if due.settled else 0.0
        if left_s <= least_s:
            return ShedError.hopeless(due.limit_s, left_s, self.scheduler.backlog_s())
        if not due.settled:
            return None
        rows, ahead_s = self.scheduler.ahead(due.deadline)
        if left_s <= least_s + ahead_s:
            return ShedError.behind(due.limit_s, left_s, least_s, rows, ahead_s)
        return None

    def count_lost(self, model: ServedModel, due: Due, outcome: Outcome) -> None:
        """A request that never got as far as the queue: shed unread, or lost during its upload."""
        self.last_activity = now = self._clock()
        model.books.ended(due.slo_class, outcome)
        for witness in self._witnesses:
            witness.lost(model.name, due, outcome, now)

    def set_cores(self, cores: float) -> None:
        """The quota in force changed."""
        self.scheduler.set_cores(cores, self._clock())
        self._release_fits()
        self.poke()

    def set_overhead(self, cores: float) -> None:
        """What the server uses of the quota beside the batches changed."""
        self.scheduler.set_overhead(cores, self._clock())
        self.poke()

    def set_batch_cap(self, batch_cap: int) -> None:
        self.scheduler.set_batch_cap(batch_cap)
        self.poke()

    def set_max_cores(self, max_cores: float) -> None:
        """The most that a plan may give: what is hopeless even then is shed at once."""
        self.scheduler.set_max_cores(max_cores)
        self.poke()

    async def fits(self, cores: float) -> None:
        """Returns once the threads in use fit the budget of `cores`."""
        budget = thread_budget(cores)
        if self.scheduler.threads_running > budget:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._fits.append((budget, future))
            await future

    def give_up(self) -> None:
        """The server stops with these requests unanswered: they fail now."""
        for job in list(self._jobs):
            self._fail(job, FailedError("the server stopped before this request could be answered"), "error")

    def poke(self) -> None:
        """Something changed: decide again, once for all that happens in this turn of the loop."""
        if not self._turn_due:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        now = self._clock()
        taken = self.running
        idle = [lane for lane in self._pool.lanes if lane.healthy and not lane.busy and lane.id not in taken]
        turn = self.scheduler.turn(now, len(idle))
        for batch, lane in zip(turn.batches, idle[: len(turn.batches)], strict=True):
            self._launch(batch, lane)
        for shed in turn.sheds:
            self._shed(shed.request.id, shed.reason)
        waits = len(self.scheduler.queue) > 0
        self.books.turned(turn, waits)
        self._arm(turn.wake_at, now)
        if waits:
            self._observer.waiting()

    def _arm(self, wake_at: float | None, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake_at is not None:
            delay = max(wake_at - now, SHORTEST_TIMER_S)
            self._timer = asyncio.get_running_loop().call_later(delay, self.poke)

    def _launch(self, batch: Batch, lane: Lane) -> None:
        self._batches[batch.key] = (batch, lane)
        rows = [self._waiting.pop(request.id) for request in batch.requests]
        for job, _ in rows:
            job.batch = batch
        self._models[batch.model].books.dispatched(batch)
        for witness in self._witnesses:
            witness.launched(batch)
        task = asyncio.get_running_loop().create_task(self._run(batch, rows, lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: Batch, rows: Sequence[_Row], lane: Lane) -> None:
        """One batch from launch to answers."""
        timeout_s = max(HANG_AT_LEAST_S, HANG_FACTOR * batch.work_s / batch.speed)
        left = _parts(batch, rows)
        apart = len(left) > 1
        try:
            while left:
                result = await lane.run([item for _, (_, item) in left[0]], batch.threads, timeout_s, batch.model)
                part = left.pop(0)
                ended = self._clock()
                if not left:
                    self._release(batch, None if apart else result)
                if not all(isinstance(outputs, ItemError) for outputs in result.outputs):
                    self._sound.add(batch.model)
                for (request, (job, item)), outputs in zip(part, result.outputs, strict=True):
                    job.queue_s = max(job.queue_s, batch.started - job.arrival)
                    job.batch_s = max(job.batch_s, ended - batch.started - result.batch_s)
                    job.infer_s = max(job.infer_s, result.batch_s)
                    self._row_done(job, item, request.id, outputs)
        except LaneError as error:
            self._release(batch)
            self._retry(batch, left[0], error)
            for part in left[1:]:
                self._wait_again(part)
        except Exception as error:
            log.exception("lane.bug")
            if batch.key in self._batches:
                self._release(batch)
            for job in {job for job, _ in rows} & self._jobs:
                self._fail(job, FailedError(f"the batch could not be run: {error}"), "error")
        finally:
            self._release_fits()
            self.poke()

    def _release(self, batch: Batch, result: LaneResult | None = None) -> None:
        """Gives the threads back, and learns from the time that the batch took."""
        now = self._clock()
        self.last_activity = now
        del self._batches[batch.key]
        for witness in self._witnesses:
            witness.finished(batch, now)
        if result is None or any(isinstance(outputs, ItemError) for outputs in result.outputs):
            self.scheduler.abandon(batch.key, now)
            return
        ratio = self.scheduler.finish(batch.key, now, result.cpu_s)
        self._models[batch.model].books.computed(batch, result, ratio)
        event(
            log,
            "batch.done",
            logging.DEBUG,
            rows=len(batch.requests),
            threads=batch.threads,
            slack_ms=(batch.requests[0].deadline - batch.started) * 1000,
            predicted_ms=batch.work_s / batch.speed * 1000,
            took_ms=(now - batch.started) * 1000,
            lane_ms=result.batch_s * 1000,
            cpu_ms=result.cpu_s * 1000,
        )

    def _row_done(self, job: Job, item: Item, row_id: int, outputs: tuple[Tensor, ...] | ItemError) -> None:
        if job not in self._jobs:
            return
        index = row_id - job.ids.start
        if isinstance(outputs, ItemError):
            where = f"row {index}: " if len(job.ids) > 1 else ""
            if item.images:  # the one thing that is looked into no sooner than in the lane
                self._fail(job, RejectedError(f"{where}{outputs}"), self._timeliness(job))
            elif bad := item.not_finite():
                text = f"{where}{outputs}: its input '{bad}' holds NaN or Inf"
                self._fail(job, RejectedError(text), self._timeliness(job))
            elif isinstance(outputs, NotFiniteError) and job.model.index in self._sound:
                # The model does not change while it is served, so the reason can only be in what it was given.
                text = f"{where}{outputs}, but not for others: check the scale of its input"
                self._fail(job, RejectedError(text), self._timeliness(job))
            else:
                self._fail(job, FailedError(f"{where}{outputs}"), "error")
            return
        job.rows[index] = outputs
        job.missing -= 1
        if job.missing == 0:
            timing = Timing(job.arrival - job.due.sent, job.queue_s, job.batch_s, job.infer_s)
            outcome = self._timeliness(job)
            self._close(job, outcome)
            now = self._clock()
            job.model.books.answered(now, job.due.slo_class, now - job.due.sent)
            job.future.set_result(Answer(_together(job.rows), timing))

    def _timeliness(self, job: Job) -> Outcome:
        return "in_time" if self._clock() <= job.due.deadline else "late"

    def _retry(self, batch: Batch, part: _Part, error: LaneError) -> None:
        """A lane was lost: its requests wait once more if their deadlines allow, else they fail."""
        now = self._clock()
        model = self._models[batch.model]
        event(log, "lane.lost", logging.WARNING, model=model.name, rows=len(part), threads=batch.threads, cause=error)
        model.books.lane_lost()
        fastest_s = self.scheduler.models[batch.model].latency(1, self.scheduler.budget)
        again = []
        for request, row in part:
            job = row[0]
            if job not in self._jobs:
                continue
            if request.id in job.retried:
                self._fail(job, FailedError(f"the lane was lost twice with this request: {error}"), "error")
            elif request.deadline < now + fastest_s:
                self._fail(job, FailedError(f"the lane was lost and no time is left to try again: {error}"), "error")
            else:
                job.retried.add(request.id)
                again.append((request, row))
        self._wait_again(again)

    def _wait_again(self, part: _Part) -> None:
        for request, row in part:
            if row[0] in self._jobs:
                self._waiting[request.id] = row
                self.scheduler.add(request)

    def _shed(self, row_id: int, reason: str) -> None:
        row = self._waiting.get(row_id)
        if row is None:  # another row of the same request was shed just before, and took this one along
            return
        job = row[0]
        slo_ms = job.due.limit_s * 1000
        waited_ms = (self._clock() - job.arrival) * 1000
        if job.retried:
            text = "the lane was lost with this request and no time is left to try again"
            self._fail(job, FailedError(text), "error")
        elif reason == "hopeless":
            left_s = job.due.deadline - job.arrival
            self._fail(job, ShedError.hopeless(job.due.limit_s, left_s, self.scheduler.backlog_s()), "shed")
        elif reason == "sacrificed":
            text = (
                f"overload: after {waited_ms:.0f} ms in the queue the rest of the {slo_ms:.0f} ms is enough for this"
                " request only at the price of others"
            )
            self._fail(job, ShedError(text, self.scheduler.backlog_s()), "shed")
        else:
            text = f"the deadline of {slo_ms:.0f} ms cannot be met any more after {waited_ms:.0f} ms in the queue"
            self._fail(job, ExpiredError(text), "expired")

    def _fail(self, job: Job, error: RequestError, outcome: Outcome) -> None:
        self._close(job, outcome)
        for row_id in job.ids:
            if self._waiting.pop(row_id, None) is not None:
                self.scheduler.withdraw(row_id)
        job.future.set_exception(error)
        # A client that left never looks at the result; that is no error of ours.
        job.future.exception()

    def _close(self, job: Job, outcome: Outcome) -> None:
        self._jobs.remove(job)
        job.model.books.ended(job.due.slo_class, outcome)
        for witness in self._witnesses:
            witness.ended(job.model.name, job, outcome, self._clock())

    def _release_fits(self) -> None:
        for _ in range(len(self._fits)):
            budget, future = self._fits.popleft()
            if future.done():
                continue
            if self.scheduler.threads_running <= budget:
                future.set_result(None)
            else:
                self._fits.append((budget, future))


def _parts(batch: Batch, rows: Sequence[_Row]) -> list[_Part]:
    """What runs together: all of it, but whoever was in a batch that lost its lane runs alone and last.

    One of them may have been the cause; the others must not die of it twice, and new ones not at all.
    """
    everything = list(zip(batch.requests, rows, strict=True))
    suspects = [entry for entry in everything if entry[0].id in entry[1][0].retried]
    others = [entry for entry in everything if entry[0].id not in entry[1][0].retried]
    return [part for part in (others, *([suspect] for suspect in suspects)) if part]


def _together(rows: Sequence[tuple[Tensor, ...] | None]) -> tuple[Tensor, ...]:
    """The rows' outputs joined along the batch dimension."""
    done = [row for row in rows if row is not None]
    if len(done) == 1:
        return done[0]
    return tuple(
        Tensor(first.name, first.datatype, (len(done), *first.shape[1:]), b"".join(row[i].data for row in done))
        for i, first in enumerate(done[0])
    )
