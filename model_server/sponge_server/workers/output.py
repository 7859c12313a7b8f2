"""Output of the workers as log events: a model's code may print, and its libraries may warn.

One pipe serves the fork server and every lane forked from it. It runs on the event loop and ends with the last process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator

from sponge_system.logs import event

__all__ = ["OutputLog"]

_log = logging.getLogger("sponge.lanes")

_LONGEST_LINE = 1 << 16


class OutputLog:
    """A pipe whose lines are logged. Inside `writer`, give `fd` to a process."""

    def __init__(self) -> None:
        self._read_fd, self.fd = os.pipe()
        self._task = asyncio.get_running_loop().create_task(self._pump(), name="lanes-output")

    @contextlib.contextmanager
    def writer(self) -> Iterator[None]:
        """Context in which `fd` is open; a process started inside keeps its own copy."""
        try:
            yield
        finally:
            os.close(self.fd)

    async def finish(self) -> None:
        """Logs the remaining lines after the processes have ended; does not wait for one that still runs."""
        with contextlib.suppress(TimeoutError, OSError):
            await asyncio.wait_for(self._task, 1.0)

    async def _pump(self) -> None:
        reader = asyncio.StreamReader(limit=_LONGEST_LINE)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: protocol, os.fdopen(self._read_fd, "rb", buffering=0)
        )
        try:
            while True:
                try:
                    line = await reader.readuntil()
                except asyncio.IncompleteReadError as rest:
                    line = rest.partial
                except asyncio.LimitOverrunError:
                    line = await reader.read(_LONGEST_LINE)
                if not line:
                    return
                text = line.decode(errors="replace").rstrip()
                if text:
                    event(_log, "lane.output", text=text)
        finally:
            transport.close()
