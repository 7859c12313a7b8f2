"""Plain data of the engine: a request on its way, a batch, and one dispatch decision."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from sponge_core.deadlines import Due
from sponge_core.dispatch.decision import Shed
from sponge_core.edf_queue import Request
from sponge_server.model_handle import ModelHandle
from sponge_server.results import InferenceResult, RejectedError
from sponge_server.workers.interface import Item, Tensor

__all__ = ["Batch", "Job", "Row", "Turn", "joined"]


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
        size: of its largest row, in the model's unit; 1 if all rows cost the same.
        variant: the least accurate one that has answered a row; 0 is the model itself.
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
    size: float = 1.0
    variant: int = 0


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
        shared: whether the running threads ever exceeded the quota while it ran.
        lane: id of the lane that runs it; -1 before the engine has chosen one.
        variant: of the model, 1 or more; 0 is the model itself.
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
    variant: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """One dispatch decision: run `batches`, refuse `sheds`, and decide again at `wake_at` at the latest."""

    batches: tuple[Batch, ...]
    sheds: tuple[Shed, ...]
    wake_at: float | None


def joined(rows: Sequence[tuple[Tensor, ...] | None]) -> tuple[Tensor, ...]:
    """The outputs of a request's rows, joined along the batch dimension.

    Raises:
        RejectedError: the rows, which may have run in different batches, have outputs of different shapes.
    """
    done = [row for row in rows if row is not None]
    first = done[0]
    if len(done) == 1:
        return first
    form = _form(first)
    for row in done[1:]:
        if (other := _form(row)) != form:
            raise RejectedError(
                f"the outputs of its rows cannot be joined, {_shown(form)} and {_shown(other)}: send each row in a"
                " request of its own"
            )
    return tuple(
        Tensor(
            tensor.name,
            tensor.datatype,
            (sum(row[i].shape[0] for row in done), *tensor.shape[1:]),  # of a ragged output, a row has several entries
            b"".join(row[i].data for row in done),
        )
        for i, tensor in enumerate(first)
    )


_Form = list[tuple[str, str, tuple[int, ...]]]


def _form(row: tuple[Tensor, ...]) -> _Form:
    return [(tensor.name, tensor.datatype, tensor.shape[1:]) for tensor in row]


def _shown(form: _Form) -> str:
    return ", ".join(f"{name} {datatype} {list(shape)}" for name, datatype, shape in form)
