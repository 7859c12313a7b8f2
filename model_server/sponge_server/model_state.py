"""The versions of one model: which one serves, which ones come and go, and why the last one could not be loaded."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FIRST_VERSION", "Failure", "ModelState"]

FIRST_VERSION = "1"
"""The version that a server starts with; each load gets the next number."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A version that could not be loaded, and why; `no_room`: for lack of memory."""

    version: str
    source: str
    no_room: bool
    why: str


@dataclass(slots=True)
class ModelState:
    """What the index of the repository says about a model.

    Attributes:
        serving: the version that answers requests; None while the model is unloaded.
        last: the version that serves, or served last.
        loading: the version that is being loaded beside it.
        coming: its source.
        ending: the former version, while requests that came for it still run.
        failed: the version that could not be loaded last; None once another one serves.
        newest: number of the newest version, loaded or not.
    """

    serving: str | None = FIRST_VERSION
    last: str = FIRST_VERSION
    loading: str | None = None
    coming: str | None = None
    ending: str | None = None
    failed: Failure | None = None
    newest: int = int(FIRST_VERSION)
