"""What becomes of a request: its answer, or the reason why there is none.

Plain data between the engine and the protocols; knows neither.
"""

from __future__ import annotations

from dataclasses import dataclass

from sponge_core.errors import SpongeError
from sponge_server.workers.interface import Tensor

__all__ = [
    "Answer",
    "ClientGoneError",
    "ExpiredError",
    "FailedError",
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
        batch_s: from dispatch to the end of its batch, beyond the time in the lane: hand-over and waiting for the lane.
        infer_s: in the lane, decoding of images included.
    """

    network_s: float = 0.0
    queue_s: float = 0.0
    batch_s: float = 0.0
    infer_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's outputs, all rows of the request together, and its timing."""

    outputs: tuple[Tensor, ...]
    timing: Timing


class RequestError(SpongeError):
    """A request that was accepted by the protocol but not answered by the model."""


class ShedError(RequestError):
    """Refused at admission: it could not be met, or there is no room for it. `retry_s` is when to try again."""

    def __init__(self, text: str, retry_s: float = 0.0) -> None:
        super().__init__(text)
        self.retry_s = retry_s

    @classmethod
    def hopeless(cls, limit_s: float, left_s: float, retry_s: float) -> ShedError:
        """So much of the client's time limit was left when the request arrived."""
        if left_s <= 0:
            return cls("the deadline had passed when the request arrived", retry_s)
        left_ms, limit_ms = left_s * 1000, limit_s * 1000
        text = f"{left_ms:.0f} ms of the {limit_ms:.0f} ms were left on arrival, too few even at the largest size"
        return cls(text, retry_s)

    @classmethod
    def behind(cls, limit_s: float, left_s: float, least_s: float, rows: int, ahead_s: float) -> ShedError:
        """There was time enough on arrival, but for the `rows` that go first: they need `ahead_s`, it `least_s`."""
        text = (
            f"{rows} rows due earlier need about {ahead_s * 1000:.0f} ms and this request {least_s * 1000:.0f} ms after"
            f" them, but only {left_s * 1000:.0f} ms of its {limit_s * 1000:.0f} ms were left on arrival"
        )
        return cls(text, ahead_s)


class ExpiredError(RequestError):
    """Dropped from the queue when its deadline could not be met any more."""


class ClientGoneError(RequestError):
    """Its client left."""


class RejectedError(RequestError):
    """The model could not take what it carries; it alone fails, not its batch."""


class FailedError(RequestError):
    """The model or its lane failed."""
