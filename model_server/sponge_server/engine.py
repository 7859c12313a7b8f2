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

from sponge_core.contract import OUTCOMES, Outcome
from sponge_core.latency import LatencyModel
from sponge_core.queueing import Request
from sponge_core.running import thread_budget
from sponge_server.answers import (
    Answer,
    ClientGoneError,
    ExpiredError,
    FailedError,
    RejectedError,
    RequestError,
    ShedError,
    Timing,
)
from sponge_server.deadlines import Due
from sponge_server.lanes.interface import Item, ItemError, Lane, LaneError, LanePool, LaneResult, Tensor
from sponge_server.logs import event
from sponge_server.metrics import Metrics
from sponge_server.recent import RecentLatencies
from sponge_server.scheduler import Batch, Scheduler, Turn

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

    due: Due
    arrival: float
    size: int
    future: asyncio.Future[Answer]
    ids: range
    rows: list[tuple[Tensor, ...] | None]
    missing: int
    queue_s: float = 0.0
    batch_s: float = 0.0
    infer_s: float = 0.0
    retried: set[int] = field(default_factory=set)


_Row = tuple[Job, Item]


class Observer(Protocol):
    """Who wants to know what arrives and what waits: the planner."""

    def arrived(self, now: float, remaining_slo_s: float, rows: int) -> None:
        """A request of so many rows was accepted with so much of its SLO left."""
        ...

    def waiting(self) -> None:
        """Requests keep waiting after a decision: time to look at the frontier."""
        ...


class Engine:
    """The running model of one server."""

    def __init__(
        self,
        pool: LanePool,
        scheduler: Scheduler,
        metrics: Metrics,
        *,
        model_name: str,
        max_queue_bytes: int,
        clock: Callable[[], float],
        observer: Observer,
    ) -> None:
        self.scheduler = scheduler
        self.outcomes: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self.latencies = RecentLatencies()
        self.last_activity = clock()
        self._pool = pool
        self._metrics = metrics
        self._model_name = model_name
        self._max_bytes = max_queue_bytes
        self._clock = clock
        self._observer = observer
        self._next_id = 0
        self._bytes = 0
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

    def submit(self, rows: Sequence[Item], due: Due, size: int) -> Job:
        """Accepts a request: it waits from now on.

        Args:
            rows: its rows, one item each, at least one.
            size: bytes that it keeps in memory.

        Raises:
            ShedError: the bodies held already fill the memory set aside for them.
        """
        now = self._clock()
        self.last_activity = now
        if self._bytes + size > self._max_bytes:
            self._count(due, "shed")
            raise ShedError("the server holds as many request bodies as it may: slow down, then try again")
        ids = range(self._next_id, self._next_id + len(rows))
        self._next_id = ids.stop
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        job = Job(due, now, size, future, ids, [None] * len(rows), len(rows))
        self._jobs.add(job)
        self._bytes += size
        for row_id, item in zip(ids, rows, strict=True):
            self._waiting[row_id] = (job, item)
            self.scheduler.add(Request(row_id, now, due.deadline, due.sent, due.slo_class))
        self._observer.arrived(now, due.deadline - now, len(rows))
        self.poke()
        return job

    def cancel(self, job: Job) -> None:
        """The client left: waiting rows leave the queue; running ones are not interrupted, their answer is dropped."""
        if job in self._jobs:
            self._fail(job, ClientGoneError("the client left"), "cancelled")
            self.poke()

    def count_lost(self, due: Due, outcome: Outcome) -> None:
        """A request that never got as far as the queue: its client left, or its deadline passed, during the upload."""
        self.last_activity = self._clock()
        self._count(due, outcome)

    def set_profile(self, profile: LatencyModel) -> None:
        self.scheduler.set_profile(profile)
        self.poke()

    def set_cores(self, cores: float) -> None:
        """The quota in force changed."""
        self.scheduler.set_cores(cores, self._clock())
        self._release_fits()
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
            self._launch(batch, lane, now)
        for shed in turn.sheds:
            self._shed(shed.request.id, shed.reason)
        self._account(turn)
        self._arm(turn.wake_at, now)
        if len(self.scheduler.queue):
            self._observer.waiting()

    def _account(self, turn: Turn) -> None:
        waiting = len(self.scheduler.queue)
        metrics = self._metrics
        metrics.queue_length.set(waiting)
        metrics.threads_running.set(self.scheduler.threads_running)
        metrics.lanes_running.set(self.scheduler.batches_running)
        if turn.batches:
            metrics.dispatch.labels("launch").inc(len(turn.batches))
        for shed in turn.sheds:
            metrics.dispatch.labels("shed" if shed.reason == "hopeless" else "expire").inc()
        if waiting:
            metrics.dispatch.labels("wait").inc()

    def _arm(self, wake_at: float | None, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake_at is not None:
            delay = max(wake_at - now, SHORTEST_TIMER_S)
            self._timer = asyncio.get_running_loop().call_later(delay, self.poke)

    def _launch(self, batch: Batch, lane: Lane, now: float) -> None:
        self._batches[batch.key] = (batch, lane)
        rows = [self._waiting.pop(request.id) for request in batch.requests]
        queue, slack = self._metrics.queue.labels(self._model_name), self._metrics.slack.labels(self._model_name)
        for request in batch.requests:
            queue.observe(now - request.arrival)
            slack.observe(request.deadline - now)
        task = asyncio.get_running_loop().create_task(self._run(batch, rows, lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: Batch, rows: Sequence[_Row], lane: Lane) -> None:
        """One batch from launch to answers."""
        timeout_s = max(HANG_AT_LEAST_S, HANG_FACTOR * batch.work_s / batch.speed)
        try:
            result = await lane.run([item for _, item in rows], batch.threads, timeout_s)
        except LaneError as error:
            self._release(batch)
            self._retry(batch, rows, error)
        except Exception as error:
            log.exception("lane.bug")
            self._release(batch)
            for job in {job for job, _ in rows} & self._jobs:
                self._fail(job, FailedError(f"the batch could not be run: {error}"), "error")
        else:
            ended = self._clock()
            self._release(batch, result)
            for request, (job, item), outputs in zip(batch.requests, rows, result.outputs, strict=True):
                job.queue_s = max(job.queue_s, batch.started - job.arrival)
                job.batch_s = max(job.batch_s, ended - batch.started - result.batch_s)
                job.infer_s = max(job.infer_s, result.batch_s)
                self._row_done(job, item, request.id, outputs)
        finally:
            self._release_fits()
            self.poke()

    def _release(self, batch: Batch, result: LaneResult | None = None) -> None:
        """Gives the threads back, and learns from the time that the batch took."""
        now = self._clock()
        self.last_activity = now
        del self._batches[batch.key]
        if result is None or any(isinstance(outputs, ItemError) for outputs in result.outputs):
            self.scheduler.abandon(batch.key, now)
            return
        ratio = self.scheduler.finish(batch.key, now, result.cpu_s)
        metrics, model = self._metrics, self._model_name
        metrics.batch_size.labels(model).observe(len(batch.requests))
        metrics.batch_threads.labels(model).observe(batch.threads)
        metrics.batch.labels(model).observe(result.batch_s)
        metrics.prediction_ratio.labels(model).observe(ratio)

    def _row_done(self, job: Job, item: Item, row_id: int, outputs: tuple[Tensor, ...] | ItemError) -> None:
        if job not in self._jobs:
            return
        index = row_id - job.ids.start
        if isinstance(outputs, ItemError):
            where = f"row {index}: " if len(job.ids) > 1 else ""
            if item.images:  # the one thing that is looked into no sooner than in the lane
                self._fail(job, RejectedError(f"{where}{outputs}"), self._timeliness(job))
            else:
                self._fail(job, FailedError(f"{where}{outputs}"), "error")
            return
        job.rows[index] = outputs
        job.missing -= 1
        if job.missing == 0:
            timing = Timing(job.arrival - job.due.sent, job.queue_s, job.batch_s, job.infer_s)
            outcome = self._timeliness(job)
            self._close(job, outcome)
            latency_s = self._clock() - job.due.sent
            self.latencies.add(self._clock(), latency_s)
            self._metrics.latency.labels(self._model_name, job.due.slo_class).observe(latency_s)
            job.future.set_result(Answer(_together(job.rows), timing))

    def _timeliness(self, job: Job) -> Outcome:
        return "in_time" if self._clock() <= job.due.deadline else "late"

    def _retry(self, batch: Batch, rows: Sequence[_Row], error: LaneError) -> None:
        """A lane was lost: its requests wait once more if their deadlines allow, else they fail."""
        now = self._clock()
        event(log, "lane.lost", logging.WARNING, rows=len(rows), threads=batch.threads, cause=error)
        self._metrics.lane_crashes.inc()
        fastest_s = self.scheduler.model.latency(1, self.scheduler.budget)
        for request, row in zip(batch.requests, rows, strict=True):
            job = row[0]
            if job not in self._jobs:
                continue
            if request.id in job.retried:
                self._fail(job, FailedError(f"the lane was lost twice with this request: {error}"), "error")
            elif request.deadline < now + fastest_s:
                self._fail(job, FailedError(f"the lane was lost and no time is left to try again: {error}"), "error")
            else:
                job.retried.add(request.id)
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
            left_ms = (job.due.deadline - job.arrival) * 1000
            text = f"{left_ms:.0f} ms of the {slo_ms:.0f} ms were left on arrival, too few even at the largest size"
            self._fail(job, ShedError(text), "shed")
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
        self._bytes -= job.size
        self._count(job.due, outcome)

    def _count(self, due: Due, outcome: Outcome) -> None:
        self.outcomes[outcome] += 1
        self._metrics.requests.labels(self._model_name, due.slo_class, outcome).inc()

    def _release_fits(self) -> None:
        for _ in range(len(self._fits)):
            budget, future = self._fits.popleft()
            if future.done():
                continue
            if self.scheduler.threads_running <= budget:
                future.set_result(None)
            else:
                self._fits.append((budget, future))


def _together(rows: Sequence[tuple[Tensor, ...] | None]) -> tuple[Tensor, ...]:
    """The rows' outputs joined along the batch dimension."""
    done = [row for row in rows if row is not None]
    if len(done) == 1:
        return done[0]
    return tuple(
        Tensor(first.name, first.datatype, (len(done), *first.shape[1:]), b"".join(row[i].data for row in done))
        for i, first in enumerate(done[0])
    )
