"""Version numbers of the server's state, and waiting for news."""

from __future__ import annotations

import asyncio
import contextlib

__all__ = ["News"]


class News:
    """Counts the versions of the state, and wakes readers when one of them is news."""

    def __init__(self) -> None:
        self._version = 0
        self._news_version = 0
        self._event = asyncio.Event()

    def publish(self, news: bool) -> None:
        """The state changed. `news` wakes every waiting reader at once."""
        self._version += 1
        if news:
            self._news_version = self._version
            self._event.set()
            self._event = asyncio.Event()

    def next_version(self) -> int:
        """Numbers a snapshot."""
        self._version += 1
        return self._version

    async def wait(self, since: int, wait_s: float) -> None:
        """Waits up to `wait_s` seconds for news later than version `since`.

        A `since` from before a restart of the server, larger than any version here, waits like the present one.
        """
        if self._news_version <= since:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._event.wait(), wait_s)
