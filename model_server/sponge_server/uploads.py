"""The bodies of requests: those still coming, and the memory that all of them take.

A request whose headers are in is an arrival that is certain, only its time is not; the planner counts it, so a burst is
seen from its first bytes. Pure books; knows nothing of sockets.
"""

from __future__ import annotations

from dataclasses import dataclass

from sponge_core.forecast import Arrival

__all__ = ["BodyMemory", "Upload", "Uploads"]

TRUSTED_AFTER_S = 0.005
"""Before, the rate of an upload says more about packet boundaries than about the link."""


@dataclass(eq=False, slots=True)
class Upload:
    """One body on its way to a model. `total` is the announced length, None when it was not announced."""

    started: float
    deadline: float
    total: int | None
    model: int = 0
    received: int = 0


class Uploads:
    """The uploads in flight of one server."""

    def __init__(self) -> None:
        self._uploads: set[Upload] = set()

    def __len__(self) -> int:
        return len(self._uploads)

    def begin(self, now: float, deadline: float, total: int | None, model: int = 0) -> Upload:
        upload = Upload(now, deadline, total, model)
        self._uploads.add(upload)
        return upload

    def end(self, upload: Upload) -> None:
        """The body is complete, or was given up."""
        self._uploads.discard(upload)

    def arrivals(self, now: float) -> list[Arrival]:
        """When each may be queued if its link keeps its pace; one that cannot be told is taken to be here at once."""
        return [Arrival(now + _left_s(upload, now), upload.deadline, upload.model) for upload in self._uploads]


class BodyMemory:
    """Bytes of all bodies that are held: coming, waiting, running or being answered."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    @property
    def held(self) -> int:
        return self._held

    def take(self, size: int) -> bool:
        """Sets `size` bytes aside; False, and nothing is, when they do not fit."""
        if self._held + size > self._limit:
            return False
        self._held += size
        return True

    def give_back(self, size: int) -> None:
        self._held -= size


def _left_s(upload: Upload, now: float) -> float:
    elapsed = now - upload.started
    if upload.total is None or upload.received == 0 or elapsed < TRUSTED_AFTER_S:
        return 0.0
    return elapsed * max(0, upload.total - upload.received) / upload.received
