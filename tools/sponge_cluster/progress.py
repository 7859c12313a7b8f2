"""What a person sees while the cluster starts: one line a step, with the seconds since the beginning.

Everything goes to stderr, so that stdout stays free for an answer that a program may read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from rich.console import Console

__all__ = ["ConsoleProgress", "Progress", "SilentProgress"]


class Progress(Protocol):
    """Where the steps of a long job are told."""

    def say(self, text: str) -> None:
        """Tells of a finished step, or of something worth knowing."""

    def busy(self, text: str) -> AbstractContextManager[None]:
        """A context in which `text` is being done; it may take minutes."""


class SilentProgress:
    """Tells nobody."""

    def say(self, text: str) -> None:
        """Drops the line."""

    def busy(self, text: str) -> AbstractContextManager[None]:  # noqa: ARG002 - the protocol's signature
        """Only does the work."""
        return nullcontext()


class ConsoleProgress:
    """Lines on stderr; on a terminal, a spinner while something is being done."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._begun = time.monotonic()

    def say(self, text: str) -> None:
        """Prints the line with the seconds since this object was made."""
        self._console.print(f"{time.monotonic() - self._begun:6.1f} s  {text}", markup=False, soft_wrap=True)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Prints the line at the start, so that a log shows it too, and the time it took at the end."""
        self.say(text)
        begun = time.monotonic()
        with self._console.status(text):
            yield
        took = time.monotonic() - begun
        if took >= 1.0:
            self.say(f"  took {took:.1f} s")
