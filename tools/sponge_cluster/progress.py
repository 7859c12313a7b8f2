"""Shows the progress of a start: one line per step, with the seconds since the beginning.

Everything goes to stderr, so that programs can read stdout.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from rich.console import Console

__all__ = ["ConsoleProgress", "Progress", "SilentProgress"]


class Progress(Protocol):
    """Receives the steps of a long job."""

    def say(self, text: str) -> None:
        """A step is finished, or there is something to know."""

    def busy(self, text: str) -> AbstractContextManager[None]:
        """A context during which `text` is in progress; it may take minutes."""


class SilentProgress:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Ignores the line."""

    def busy(self, text: str) -> AbstractContextManager[None]:  # noqa: ARG002 - the protocol's signature
        """Returns an empty context."""
        return nullcontext()


class ConsoleProgress:
    """Prints lines on stderr; on a terminal, shows a spinner while something is in progress."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._begun = time.monotonic()

    def say(self, text: str) -> None:
        """Prints the line with the seconds since the creation of this object."""
        self._console.print(f"{time.monotonic() - self._begun:6.1f} s  {text}", markup=False, soft_wrap=True)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Prints the line at the start, so that a log shows it too, and the duration at the end."""
        self.say(text)
        begun = time.monotonic()
        with self._console.status(text):
            yield
        took = time.monotonic() - begun
        if took >= 1.0:
            self.say(f"  took {took:.1f} s")
