"""Which phase of its life the server is in; what readiness and admission follow. Plain state, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Phase", "Status"]

Phase = Literal["loading", "warming", "ready", "leaving", "draining"]

EXPLAINED: dict[Phase, str] = {
    "loading": "models are being loaded",
    "warming": "the lanes are warming up",
    "ready": "ready",
    "leaving": "the server is shutting down",
    "draining": "the server is shutting down",
}


@dataclass(slots=True)
class Status:
    """The phase, shared by everyone who answers for the server."""

    phase: Phase = "loading"

    @property
    def ready(self) -> bool:
        return self.phase == "ready"

    @property
    def accepting(self) -> bool:
        """New requests are taken; also for a moment after the server has been told to stop."""
        return self.phase in ("ready", "leaving")

    @property
    def ending(self) -> bool:
        """The server has been told to stop."""
        return self.phase in ("leaving", "draining")

    @property
    def text(self) -> str:
        return EXPLAINED[self.phase]
