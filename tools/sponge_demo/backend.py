"""Where a demo runs: the part of a Kubernetes cluster or of a bare machine that a session needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sponge_core.errors import SpongeError
from sponge_core.latency import LatencyModel
from sponge_demo.progress import Phase
from sponge_demo.scenario import Scenario

__all__ = ["Backend", "DemoError", "Endpoint", "PodFacts", "Say"]

Say = Callable[[str], None]
"""Takes one line about the present step, for the terminal and the page."""


class DemoError(SpongeError):
    """The demo cannot go on."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The addresses of a server that is ready: its data port, its control port and the token of the latter."""

    url: str
    control_url: str
    token: str


@dataclass(frozen=True, slots=True)
class PodFacts:
    """Counters of the server; only differences between two calls matter."""

    resizes: int
    restarts: int


class Backend(Protocol):
    """Serves the scenario's model with one server, whose size is either held or chosen by Sponge.

    `open` and `close` block, and are called outside of any event loop, so that Ctrl-C interrupts them as usual.
    """

    @property
    def description(self) -> str:
        """What the demo runs on, in a few words; known once the backend is open."""
        ...

    @property
    def opening(self) -> Sequence[Phase]:
        """The phases of `open`, each of which it announces by its name."""
        ...

    @property
    def start_s(self) -> float:
        """How long `start` is expected to take."""
        ...

    @property
    def close_s(self) -> float:
        """How long `stop` and `close` are expected to take."""
        ...

    def open(self, say: Say, enter: Say) -> None:
        """Prepares the place where the server runs.

        Args:
            say: gets a line for every step.
            enter: gets the name of each phase as it begins.

        Raises:
            SpongeError: the backend cannot be used.
        """
        ...

    async def start(self, scenario: Scenario) -> Endpoint:
        """Starts a fresh server and waits until it is ready; its size is held. Raises SpongeError."""
        ...

    async def profile(self) -> LatencyModel:
        """The latency profile that the server plans with. Raises SpongeError."""
        ...

    async def hold(self, milli: int) -> None:
        """Fixes the server's size; returns once that is in force. Raises SpongeError."""
        ...

    async def release(self) -> None:
        """Lets Sponge choose the size from now on. Raises SpongeError."""
        ...

    async def facts(self) -> PodFacts:
        """The present counters. Raises SpongeError when the server is gone."""
        ...

    async def stop(self) -> None:
        """Lets go of the server, if one was started; it ends with the next `start` or with `close` at the latest."""
        ...

    def close(self) -> None:
        """Removes everything that `open` made, even if it failed."""
        ...
