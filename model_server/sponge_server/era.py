"""Era: the calls that began between two moments, so that one can wait until the last of them has ended."""

from __future__ import annotations

import asyncio
from types import TracebackType

__all__ = ["Era"]


class Era:
    """Enter it for the time of a call. Once no more calls enter it, `over` waits for those inside."""

    __slots__ = ("_calls", "_empty")

    def __init__(self) -> None:
        self._calls = 0
        self._empty: asyncio.Event | None = None

    def __enter__(self) -> None:
        self._calls += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._calls -= 1
        if self._calls == 0 and self._empty is not None:
            self._empty.set()

    async def over(self) -> None:
        """Returns once every call has ended."""
        if self._calls:
            self._empty = asyncio.Event()
            await self._empty.wait()
