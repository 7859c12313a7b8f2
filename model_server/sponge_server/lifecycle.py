"""Lifecycle of the server: its phase, its readiness, and its answer while it cannot serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from sponge_server.protocol.oip import MODEL_VERSION
from sponge_server.protocol.problems import ProblemError, retry_after

__all__ = ["Lifecycle", "Loaded", "Phase"]

T = TypeVar("T")

Phase = Literal["loading", "warming", "ready", "leaving", "draining"]

EXPLAINED: dict[Phase, str] = {
    "loading": "models are being loaded",
    "warming": "the lanes are warming up",
    "ready": "ready",
    "leaving": "the server is shutting down",
    "draining": "the server is shutting down",
}


class Lifecycle:
    """The phase that the server is in; readiness and admission follow it.

    Attributes:
        models: names of the models, known before they are loaded.
        phase: set by `enter`.
        ready: requests should be sent here.
        accepting: new requests are accepted; also for a moment after the server was told to stop.
        ending: the server was told to stop.
    """

    __slots__ = ("accepting", "ending", "models", "phase", "ready")

    def __init__(self, models: Sequence[str] = (), phase: Phase = "loading") -> None:
        self.models = tuple(models)
        self.enter(phase)

    def enter(self, phase: Phase) -> None:
        """Moves to another phase."""
        self.phase: Phase = phase
        self.ready = phase == "ready"
        self.accepting = phase in ("ready", "leaving")
        self.ending = phase in ("leaving", "draining")

    def not_ready(self) -> ProblemError:
        """The answer while requests are not accepted: 503, with the reason."""
        slug = "draining" if self.ending else "not-ready"
        return ProblemError(503, slug, f"not ready: {EXPLAINED[self.phase]}", retry_after(0))

    def check_model(self, name: str, version: str | None) -> None:
        """Raises ProblemError 404 when this server does not have that model or version."""
        if name not in self.models:
            known = ", ".join(map(repr, self.models))
            raise ProblemError(404, "unknown-model", f"no model {name!r} here; this server has {known}")
        if version is not None and version != MODEL_VERSION:
            raise ProblemError(404, "unknown-version", f"{name!r} has version {MODEL_VERSION!r} only")


@dataclass(slots=True)
class Loaded(Generic[T]):
    """A part of the server that exists only once the models are loaded. The ports answer before that."""

    lifecycle: Lifecycle
    part: T | None = None

    def get(self) -> T:
        """The part. Raises ProblemError 503 before the models are loaded."""
        if self.part is None:
            raise self.lifecycle.not_ready()
        return self.part
