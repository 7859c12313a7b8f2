"""Counts and times of each model since the start, as the protocol's statistics extension reports them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sponge_core.control_api import Outcome
from sponge_core.deadlines import Due
from sponge_server.engine.jobs import Batch, Job
from sponge_server.model_handle import ModelHandle
from sponge_server.observability.observers import RequestObserver
from sponge_server.workers.interface import LaneResult

__all__ = ["ModelCounter", "ModelCounts", "Spans"]


@dataclass(slots=True)
class Spans:
    """How often something happened, and the seconds that it took altogether."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Counts one."""
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class ModelCounts:
    """What one model has done.

    Attributes:
        last: when the last request was answered, in epoch seconds; 0 before.
        rows: rows of all answered requests.
        batches: batches that ran.
        success: answered requests, from their arrival on.
        fail: requests that ended in another way.
        queue, hand_over, infer: parts of the time of the answered requests, see `results.Timing`.
        by_size: time of the batches in their lanes, by rows.
    """

    last: float = 0.0
    rows: int = 0
    batches: int = 0
    success: Spans = field(default_factory=Spans)
    fail: Spans = field(default_factory=Spans)
    queue: Spans = field(default_factory=Spans)
    hand_over: Spans = field(default_factory=Spans)
    infer: Spans = field(default_factory=Spans)
    by_size: dict[int, Spans] = field(default_factory=dict)


class ModelCounter(RequestObserver):
    """Keeps the counts of all models. Attribute `models`: the counts by index of the model."""

    def __init__(self, models: int, wall_clock: Callable[[], float]) -> None:
        """`wall_clock` gives epoch seconds."""
        self.models: Sequence[ModelCounts] = [ModelCounts() for _ in range(models)]
        self._wall_clock = wall_clock

    def batch_measured(self, batch: Batch, result: LaneResult, ratio: float, now: float) -> None:  # noqa: ARG002
        counts = self.models[batch.model]
        counts.batches += 1
        size = len(batch.requests)
        spans = counts.by_size.get(size)
        if spans is None:
            spans = counts.by_size[size] = Spans()
        spans.add(result.batch_s)

    def request_ended(self, job: Job, outcome: Outcome, now: float) -> None:  # noqa: ARG002
        counts = self.models[job.model.index]
        if job.missing:
            counts.fail.add(now - job.arrival)
            return
        counts.last = self._wall_clock()
        counts.rows += len(job.ids)
        counts.success.add(now - job.arrival)
        counts.queue.add(job.queue_s)
        counts.hand_over.add(job.batch_s)
        counts.infer.add(job.infer_s)

    def request_refused(self, model: ModelHandle, due: Due, outcome: Outcome, now: float) -> None:  # noqa: ARG002
        self.models[model.index].fail.add(0.0)
