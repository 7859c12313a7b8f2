"""What becomes of a request: its result, or the error that says why there is none."""

from __future__ import annotations

from dataclasses import dataclass

from sponge_core.errors import SpongeError
from sponge_server.workers.interface import Tensor

__all__ = [
    "CancelledRequestError",
    "ExpiredError",
    "FailedError",
    "InferenceResult",
    "RejectedError",
    "RequestError",
    "ShedError",
    "Timing",
]


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of a request went, in seconds.

    Attributes:
        network_s: from the client's send time (else the first header) until the body was complete.
        queue_s: from then until its last row was dispatched.
        batch_s: from dispatch to the end of its batch, without the time in the lane: hand-over and waiting for the
            lane.
        infer_s: in the lane, including the decoding of images.
    """

    network_s: float = 0.0
    queue_s: float = 0.0
    batch_s: float = 0.0
    infer_s: float = 0.0


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """The model's outputs, all rows of the request together, and its timing.

    Attributes:
        answered_by: name and accuracy of the model or variant that answered; of the least accurate one, if rows had
            several. None: the model has no variants.
    """

    outputs: tuple[Tensor, ...]
    timing: Timing
    answered_by: tuple[str, float] | None = None


class RequestError(SpongeError):
    """A request that the protocol accepted and the model did not answer."""


class ShedError(RequestError):
    """Refused at admission: the deadline cannot be met, or the queue is full.

    Attributes:
        retry_s: when to try again, in seconds.
        elsewhere: the load of this server is the reason, so another one may answer in time.
    """

    def __init__(self, text: str, retry_s: float = 0.0, *, elsewhere: bool = True) -> None:
        super().__init__(text)
        self.retry_s = retry_s
        self.elsewhere = elsewhere

    @classmethod
    def hopeless(cls, limit_s: float, left_s: float, retry_s: float) -> ShedError:
        """Only `left_s` of the client's time limit of `limit_s` was left when the request arrived."""
        if left_s <= 0:
            return cls("the deadline had passed when the request arrived", retry_s, elsewhere=False)
        left_ms, limit_ms = left_s * 1000, limit_s * 1000
        text = f"{left_ms:.0f} ms of the {limit_ms:.0f} ms were left on arrival, too few even at the largest size"
        return cls(text, retry_s, elsewhere=False)

    @classmethod
    def behind(cls, limit_s: float, left_s: float, least_s: float, rows: int, ahead_s: float) -> ShedError:
        """The `rows` with earlier deadlines need `ahead_s` and the request itself `least_s`: together too long."""
        text = (
            f"{rows} rows due earlier need about {ahead_s * 1000:.0f} ms and this request {least_s * 1000:.0f} ms after"
            f" them, but only {left_s * 1000:.0f} ms of its {limit_s * 1000:.0f} ms were left on arrival"
        )
        return cls(text, ahead_s)

    @classmethod
    def no_place(cls, rows: int, most: int, retry_s: float) -> ShedError:
        """The queue of `rows` rows is full of requests that are at least as urgent."""
        return cls(f"{rows} rows wait, and at most {most} may: slow down, then try again", retry_s)

    @classmethod
    def displaced(cls, waited_s: float, retry_s: float) -> ShedError:
        """A more urgent request, or one of a class with a share, took the place in a full queue."""
        text = (
            f"the queue is full, and after {waited_s * 1000:.0f} ms a more urgent request took this one's place: slow"
            " down, then try again"
        )
        return cls(text, retry_s)

    @classmethod
    def sacrificed(cls, limit_s: float, waited_s: float, retry_s: float) -> ShedError:
        """Overload: answering this request after `waited_s` in the queue would cost other requests more."""
        text = (
            f"overload: after {waited_s * 1000:.0f} ms in the queue, the rest of the {limit_s * 1000:.0f} ms is enough"
            " for this request only at the expense of others"
        )
        return cls(text, retry_s)


class ExpiredError(RequestError):
    """Dropped from the queue because its deadline could no longer be met."""

    @classmethod
    def in_queue(cls, limit_s: float, waited_s: float) -> ExpiredError:
        """Dropped after `waited_s` in the queue."""
        return cls(
            f"the deadline of {limit_s * 1000:.0f} ms can no longer be met after {waited_s * 1000:.0f} ms in the queue"
        )


class CancelledRequestError(RequestError):
    """The client disconnected."""


class RejectedError(RequestError):
    """The model rejected this request's input; the rest of its batch is not affected."""


class FailedError(RequestError):
    """The model or its lane failed."""
