"""Observer interface for request and batch events.

The engine calls its observers at the moment something happens. Request statistics, the projector, the access log and
tracing implement this interface. An observer changes nothing in the engine and must not raise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec

from sponge_core.control_api import Outcome
from sponge_core.deadlines import Due
from sponge_server.engine.jobs import Batch, Job, Turn
from sponge_server.model_handle import ModelHandle
from sponge_server.workers.interface import LaneResult

__all__ = ["Listeners", "RequestObserver"]

P = ParamSpec("P")


class RequestObserver:
    """Base class whose methods do nothing: override those you need. Times are monotonic seconds of the server."""

    def request_arrived(self, job: Job) -> None:
        """A request was queued."""

    def requests_pending(self) -> None:
        """Requests keep waiting after a dispatch decision, or the body of a request is still being uploaded."""

    def turn_taken(self, turn: Turn, waits: bool) -> None:
        """A dispatch decision was made; `waits`: requests are left in the queue after it."""

    def batch_started(self, batch: Batch) -> None:
        """A batch was handed to a lane."""

    def batch_finished(self, batch: Batch, now: float) -> None:
        """A batch ended, also when its lane was lost. Comes before `batch_measured`."""

    def batch_measured(self, batch: Batch, result: LaneResult, ratio: float, now: float) -> None:
        """A batch ended with outputs for all its rows; `ratio` is measured over predicted work."""

    def lane_lost(self, batch: Batch) -> None:
        """A lane died or hung while it ran this batch."""

    def request_ended(self, job: Job, outcome: Outcome, now: float) -> None:
        """A queued request ended. It has outputs if `job.missing` is 0, else an error."""

    def request_displaced(self, job: Job) -> None:
        """A queued request gave up its place in a full queue. Comes after `request_ended`."""

    def request_refused(self, model: ModelHandle, due: Due, outcome: Outcome, now: float) -> None:
        """A request ended before it was queued."""


class Listeners:
    """The methods of some observers by event, without those that do nothing: an event costs only what it does."""

    def __init__(self, observers: Sequence[RequestObserver]) -> None:
        base = RequestObserver
        self.request_arrived = _overriding(observers, base.request_arrived)
        self.requests_pending = _overriding(observers, base.requests_pending)
        self.turn_taken = _overriding(observers, base.turn_taken)
        self.batch_started = _overriding(observers, base.batch_started)
        self.batch_finished = _overriding(observers, base.batch_finished)
        self.batch_measured = _overriding(observers, base.batch_measured)
        self.lane_lost = _overriding(observers, base.lane_lost)
        self.request_ended = _overriding(observers, base.request_ended)
        self.request_displaced = _overriding(observers, base.request_displaced)
        self.request_refused = _overriding(observers, base.request_refused)


def _overriding(
    observers: Sequence[RequestObserver], event: Callable[Concatenate[RequestObserver, P], None]
) -> list[Callable[P, None]]:
    """The bound methods for an event of those observers that override the base class's."""
    name = event.__name__
    return [getattr(observer, name) for observer in observers if getattr(type(observer), name) is not event]
