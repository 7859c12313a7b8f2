"""Where a demo runs: what a session needs of a Kubernetes cluster or of a bare machine, and nothing more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sponge_core.errors import SpongeError
from sponge_demo.scenario import Scenario

__all__ = ["Backend", "DemoError", "Endpoint", "PodFacts", "Say"]

Say = Callable[[str], None]
"""Takes one line on what is being done now, for the terminal and the page."""


class DemoError(SpongeError):
    """The demo cannot go on."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that is ready: its data port, its control port and the token for that."""

    url: str
    control_url: str
    token: str


@dataclass(frozen=True, slots=True)
class PodFacts:
    """Counted since the server was started: resizes that were asked for, and restarts."""

    resizes: int
    restarts: int


class Backend(Protocol):
    """Serves the scenario's model, once per run; one run at a time.

    `open` and `close` are called outside of any event loop, so that an interrupt meets them as it meets any program.
    """

    @property
    def description(self) -> str:
        """What it runs on, in a few words; known once it is open."""
        ...

    def open(self, say: Say) -> None:
        """All that is done once. Raises SpongeError."""
        ...

    async def start(self, scenario: Scenario, static_milli: int | None) -> Endpoint:
        """A fresh server, ready for requests: sized by Sponge, or fixed at `static_milli`. Raises SpongeError."""
        ...

    async def facts(self) -> PodFacts:
        """What happened to the server so far. Raises SpongeError when it is gone."""
        ...

    async def stop(self) -> None:
        """Ends the server, if one was started."""
        ...

    def close(self) -> None:
        """Takes away all that `open` made; also after it failed."""
        ...
