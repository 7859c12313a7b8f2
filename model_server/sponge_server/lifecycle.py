"""Lifecycle of the server: its phase, its readiness, and its answer while it cannot serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from sponge_server.model_state import ModelState
from sponge_server.protocol.problems import ELSEWHERE, ProblemError, retry_after

__all__ = ["Lifecycle", "Loaded", "Phase"]

T = TypeVar("T")

Phase = Literal["loading", "warming", "ready", "leaving", "draining"]

READY_WITHOUT_S = 3.0
"""A server without a healthy lane stays ready for this long: most lanes are replaced within some tenths of a second."""

LANES_LOST = "every lane was lost, and they are being started again; the log says why"

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
        states: their versions, by name.
        phase: set by `enter`.
        ready: requests should be sent here.
        alive: False when the server should be restarted, because its lanes do not come back.
        accepting: new requests are accepted; also for a moment after the server was told to stop.
        ending: the server was told to stop.
        restart_s: seconds without any healthy lane after which `alive` ends.
    """

    __slots__ = (
        *("_lost_at", "_lost_for_s", "accepting", "alive", "ending"),
        *("models", "phase", "ready", "restart_s", "states"),
    )

    def __init__(self, models: Sequence[str] = (), phase: Phase = "loading", restart_s: float = 60.0) -> None:
        self.models = tuple(models)
        self.states = {name: ModelState() for name in models}
        self.restart_s = restart_s
        self._lost_at: float | None = None
        self._lost_for_s = 0.0
        self.enter(phase)

    def enter(self, phase: Phase) -> None:
        """Moves to another phase."""
        self.phase: Phase = phase
        self._update()

    def see_lanes(self, now: float, healthy: bool) -> None:
        """Takes in whether any lane is healthy at `now`, in monotonic seconds."""
        if healthy:
            self._lost_at = None
        elif self._lost_at is None:
            self._lost_at = now
        self._lost_for_s = 0.0 if self._lost_at is None else now - self._lost_at
        self._update()

    @property
    def reason(self) -> str:
        """The phase, or "lanes-lost"."""
        return "lanes-lost" if self.phase == "ready" and not self.ready else self.phase

    def not_ready(self) -> ProblemError:
        """The answer while requests are not accepted: 503, with the reason."""
        slug = "draining" if self.ending else "not-ready"
        why = LANES_LOST if self.reason == "lanes-lost" else EXPLAINED[self.phase]
        return ProblemError(503, slug, f"not ready: {why}", (*retry_after(0), ELSEWHERE))

    def check_model(self, name: str, version: str | None) -> None:
        """Raises ProblemError 404 when this server does not have that model, or does not serve that version of it."""
        state = self.states.get(name)
        if state is None:
            known = ", ".join(map(repr, self.models))
            raise ProblemError(404, "unknown-model", f"no model {name!r} here; this server has {known}")
        if state.serving is None:
            text = f"{name!r} is unloaded: POST /v2/repository/models/{name}/load loads it again"
            raise ProblemError(404, "unloaded-model", text)
        if version is not None and version != state.serving:
            raise ProblemError(404, "unknown-version", f"{name!r} has version {state.serving!r} only")

    def versions(self, name: str) -> list[str]:
        """The versions of a model that requests may name."""
        serving = self.states[name].serving
        return [] if serving is None else [serving]

    @property
    def serves(self) -> bool:
        """Whether any model is loaded."""
        return any(state.serving is not None for state in self.states.values())

    def _update(self) -> None:
        phase, served = self.phase, self._lost_for_s < READY_WITHOUT_S
        self.ready = phase == "ready" and served
        self.alive = self._lost_for_s < self.restart_s
        self.accepting = phase in ("ready", "leaving") and served
        self.ending = phase in ("leaving", "draining")


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
