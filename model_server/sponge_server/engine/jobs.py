"""Plain data of the engine: a request on its way, a batch, and one dispatch decision."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from sponge_core.dispatch.decision import Shed
from sponge_core.edf_queue import Request
from sponge_server.deadlines import Due
from sponge_server.model_handle import ModelHandle
from sponge_server.results import InferenceResult
from sponge_server.workers.interface import Item, Tensor

__all__ = ["Batch", "Job", "Row", "Turn"]


@dataclass(eq=False, slots=True)
class Job:
    """One client request in the engine. Await `future` for its result; it raises a RequestError.

    A request of several rows waits as several single-row requests of the core, so that the dispatch rule may spread
    them over batches. It is answered when its last row is.

    Attributes:
        arrival: when it was submitted, on the server's monotonic clock, in seconds.
        ids: ids of its rows in the core's queue.
        rows: outputs by row; None until the row is done.
        missing: number of rows without outputs; 0 once the request is answered.
        queue_s, batch_s, infer_s: see `results.Timing`; the longest of its rows.
        batch: the batch of the row that was dispatched last; None before.
        retried: ids of the rows whose lane was lost once.
    """

    model: ModelHandle
    due: Due
    arrival: float
    future: asyncio.Future[InferenceResult]
    ids: range
    rows: list[tuple[Tensor, ...] | None]
    missing: int
    queue_s: float = 0.0
    batch_s: float = 0.0
    infer_s: float = 0.0
    batch: Batch | None = None
    retried: set[int] = field(default_factory=set)


Row = tuple[Job, Item]
"""One row of a request: what waits in the queue and runs in a batch."""


@dataclass(eq=False, slots=True)
class Batch:
    """A batch from launch to end.

    Attributes:
        model: index of its model.
        requests: rows of that model, earliest deadline first.
        threads: threads that it runs on.
        work_s: predicted seconds at full speed, by the calibrated profile.
        predicted_s: predicted duration, from the share of full speed at the start.
        started: when it was launched, on the server's monotonic clock, in seconds.
        profile_s: predicted seconds at full speed, by the uncalibrated profile.
        work_clock: the scheduler's clock of full-speed work at the start.
        shared: whether the running threads ever exceeded the cores while it ran.
        lane: id of the lane that runs it; -1 before the engine has chosen one.
    """

    key: int
    model: int
    requests: tuple[Request, ...]
    threads: int
    work_s: float
    predicted_s: float
    started: float
    profile_s: float
    work_clock: float
    shared: bool = False
    lane: int = -1


@dataclass(frozen=True, slots=True)
class Turn:
    """One dispatch decision: run `batches`, refuse `sheds`, and decide again at `wake_at` at the latest."""

    batches: tuple[Batch, ...]
    sheds: tuple[Shed, ...]
    wake_at: float | None
