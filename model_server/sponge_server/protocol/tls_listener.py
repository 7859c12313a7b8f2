"""Accepts the connections of an HTTP port with TLS, and hands those over whose handshake succeeds.

uvicorn would listen by itself, but its handshakes are not counted, take up to a minute and keep one context for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from prometheus_client import Counter

from sponge_server.protocol.http_connection import LINGER_S, HttpLimits
from sponge_server.protocol.http_refusals import PLAIN_HTTP, refusal
from sponge_system.logs import event

__all__ = ["MOST_HANDSHAKES", "TlsListener"]

log = logging.getLogger(__name__)

MOST_HANDSHAKES = 512
"""Handshakes at once, or as many as connections if those are fewer. A newcomer ends the oldest one, so that stalled
ones keep nobody out."""

ACCEPTED_AT_ONCE = 64
"""Connections accepted before the event loop turns to others."""

NO_DESCRIPTOR_S = 0.1
"""Pause after the process or the kernel had no room for another connection."""

HANDSHAKE = b"\x16"
"""First byte of a connection with TLS."""

PIECE_BYTES, MOST_PIECES = 64 << 10, 16
"""What is read and dropped of a request without TLS, so that its client sees the answer."""


@dataclass(slots=True)
class _Handshake:
    """One connection. `failed`: why it ended, until it succeeds. `ours`: no transport owns the socket yet."""

    sock: socket.socket
    failed: str | None = "displaced"
    ours: bool = True


class TlsListener:
    """One listening socket. Closes like a server of asyncio."""

    def __init__(
        self,
        sock: socket.socket,
        context: Callable[[], ssl.SSLContext],
        connection: Callable[[], asyncio.Protocol],
        limits: HttpLimits,
        failures: Counter,
    ) -> None:
        """Listens; call it on the event loop.

        Args:
            context: gives the context of the next handshake.
            connection: makes the protocol of a connection whose handshake succeeded.
            failures: counts the other ones, by `reason`.
        """
        self._sock = sock
        self._context = context
        self._connection = connection
        self._limits = limits
        self._failures = failures
        self._loop = asyncio.get_running_loop()
        self._most = min(MOST_HANDSHAKES, limits.max_connections)
        self._handshakes: dict[asyncio.Task[None], None] = {}  # oldest first
        self._closed = False
        sock.setblocking(False)
        sock.listen(limits.backlog)
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Accepts no more, and ends the handshakes under way."""
        self._closed = True
        self._loop.remove_reader(self._sock)
        for handshake in self._handshakes:
            handshake.cancel()

    async def wait_closed(self) -> None:
        """Returns once every handshake has ended."""
        if self._handshakes:
            await asyncio.wait(self._handshakes)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                event(log, "tls.not_accepted", logging.WARNING, why=error)
                self._loop.remove_reader(self._sock)
                self._loop.call_later(NO_DESCRIPTOR_S, self._resume)
                return
            sock.setblocking(False)
            if len(self._handshakes) >= self._most:
                oldest = next(iter(self._handshakes))
                del self._handshakes[oldest]
                oldest.cancel()
            handshake = _Handshake(sock)
            task = self._loop.create_task(self._welcome(handshake))
            self._handshakes[task] = None
            task.add_done_callback(partial(self._ended, handshake))

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._sock, self._accept)

    def _ended(self, handshake: _Handshake, task: asyncio.Task[None]) -> None:
        # Here and not in the task, which may have been cancelled before it began.
        self._handshakes.pop(task, None)
        if handshake.ours:
            handshake.sock.close()
        if handshake.failed is not None:
            self._failures.labels(handshake.failed).inc()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("tls.bug", exc_info=error)

    async def _welcome(self, handshake: _Handshake) -> None:
        """The handshake of one connection, within the time that the headers of a request have."""
        try:
            async with asyncio.timeout(self._limits.header_timeout_s):
                handshake.failed = await self._shake_hands(handshake)
        except TimeoutError:
            handshake.failed = "timeout"
        except OSError:  # those of the TLS library too
            handshake.failed = "failed"

    async def _shake_hands(self, handshake: _Handshake) -> str | None:
        """None once the connection is handed over, else why it is not. Raises OSError."""
        sock = handshake.sock
        await self._readable(sock)
        first = sock.recv(1, socket.MSG_PEEK)
        if first.isalpha():
            await self._answer_plain(sock)
        if first != HANDSHAKE:
            return "plain" if first else "failed"
        handshake.ours = False  # whatever happens from here on
        await self._loop.connect_accepted_socket(
            self._connection,
            sock,
            ssl=self._context(),
            ssl_handshake_timeout=2 * self._limits.header_timeout_s,  # the caller's time ends before
            ssl_shutdown_timeout=self._limits.write_timeout_s,
        )
        return None

    async def _answer_plain(self, sock: socket.socket) -> None:
        """Says which port this is, then reads on for a moment: closed at once, the client would see a reset."""
        sock.send(refusal(PLAIN_HTTP))
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                for _ in range(MOST_PIECES):
                    await self._readable(sock)
                    if not sock.recv(PIECE_BYTES):
                        return

    async def _readable(self, sock: socket.socket) -> None:
        ready = self._loop.create_future()

        def is_ready() -> None:
            if not ready.done():
                ready.set_result(None)

        self._loop.add_reader(sock, is_ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(sock)
