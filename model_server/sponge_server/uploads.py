"""Request bodies that are still being uploaded.

A request whose headers are in will certainly arrive, only its time is open. The projector counts it, so it sees a burst
from its first bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from sponge_core.forecast import Arrival

__all__ = ["TRUSTED_AFTER_S", "Upload", "Uploads"]

TRUSTED_AFTER_S = 0.005
"""Before this time, the rate of an upload says more about packet boundaries than about the link."""


@dataclass(eq=False, slots=True)
class Upload:
    """The body of one request while it arrives.

    Attributes:
        started: when its headers were in, on the server's monotonic clock, in seconds.
        deadline: when the answer is due, on the same clock.
        total: announced length in bytes; None when it was not announced.
        model: index of the model.
        received: bytes that are here.
    """

    started: float
    deadline: float
    total: int | None
    model: int = 0
    received: int = 0


class Uploads(set[Upload]):
    """The uploads in flight of one server."""

    def arrivals(self, now: float) -> list[Arrival]:
        """When each upload will be queued if its link keeps its pace; at once where the pace is unknown."""
        return [Arrival(now + _left_s(upload, now), upload.deadline, upload.model) for upload in self]


def _left_s(upload: Upload, now: float) -> float:
    elapsed = now - upload.started
    if upload.total is None or upload.received == 0 or elapsed < TRUSTED_AFTER_S:
        return 0.0
    return elapsed * max(0, upload.total - upload.received) / upload.received
