"""HTTP/1.1 connections that write on time, to the fraction of a millisecond.

Why not aiohttp: on two busy cores, a request through aiohttp leaves 2 ms late at the 99th percentile and costs 2 ms of
CPU. A plain protocol leaves 0.3 ms late and costs a third. A load generator on the machine of the server needs that.
"""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import socket
import ssl
from collections import deque
from urllib.parse import urlsplit

import httptools

from sponge_client.errors import LoadError
from sponge_core.addresses import authority

__all__ = ["Address", "Connection", "ConnectionPool", "ResponseReader", "precise_loop", "prioritize_process"]

IDLE_LIMIT_S = 2.0
"""An idle connection is reused within this time. Servers close theirs after 5 s or more (uvicorn's default), and a
request that meets such a close would count as an error of the server."""

HEAD_LIMIT = 64 * 1024


class _PreciseSelector(selectors.DefaultSelector):
    """Wakes on time. Epoll rounds a timeout up to whole milliseconds, which is too late for a load generator.

    `select` on the epoll descriptor itself has a timeout in microseconds.
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are some ten microseconds late, instead of up to a millisecond."""
    return asyncio.SelectorEventLoop(_PreciseSelector())


def prioritize_process() -> None:
    """Runs this process before the server under test if permitted, as its delays would count as the server's.

    Beside four busy processes, a real-time process is 0.1 ms late (99th percentile), and one with a niceness of -10 is
    2 ms late. Child processes run with the normal priority.
    """
    try:
        policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    except (AttributeError, OSError):
        return  # not Linux, or not permitted


class Address:
    """The address of a server, from its URL.

    Args:
        tls: which certificates to trust at an https URL; by default those of this machine's authorities.

    Raises:
        LoadError: the URL has no http(s) scheme or no host, or there is `tls` for a URL without it.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LoadError(f"--url {url}: give an address such as http://127.0.0.1:8080")
        if tls is not None and parts.scheme == "http":
            raise LoadError(f"--url {url}: --ca-file is for an https:// address")
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.path = parts.path.rstrip("/")
        self.tls = None if parts.scheme == "http" else tls or ssl.create_default_context()

    @property
    def host_header(self) -> str:
        return authority(self.host, self.port)


class ResponseReader:
    """Reads one response from bytes as they come; keeps its status and headers (lower-case names).

    Args:
        keep_body: keep the body in `body`; without it the body is dropped as it comes.
    """

    def __init__(self, keep_body: bool = False) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.done = False
        self.keep_alive = False
        self._keep_body = keep_body
        self._head_bytes = 0
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Takes the next bytes. Raises ValueError if they are not an HTTP/1.1 response, or go beyond its end."""
        if self.done:
            raise ValueError("bytes after the end of the response")
        if not self.status:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise ValueError(f"not an HTTP/1.1 response: {error.__context__ or error}") from None
        if not self.status and self._head_bytes > HEAD_LIMIT:
            raise ValueError("no end of the response's headers")

    def end(self) -> None:
        """The connection was closed: completes a response of unknown length. Raises ValueError if it was cut off."""
        if not self.done and (not self.status or {"content-length", "transfer-encoding"} & self.headers.keys()):
            raise ValueError("the connection closed before the response was complete")
        self.done, self.keep_alive = True, False

    def on_message_begin(self) -> None:
        """Called by the parser."""
        if self.done:
            raise ValueError("bytes after the end of the response")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        status = self._parser.get_status_code()
        if status < 200:
            self.headers.clear()  # an interim response, such as 100 Continue
        else:
            self.status = status

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        if self._keep_body:
            self.body += body

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self.status:
            self.done, self.keep_alive = True, self._parser.should_keep_alive()


class Connection(asyncio.Protocol):
    """One connection with one request at a time; `keep_body` as for `ResponseReader`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, keep_body: bool = False) -> None:
        self._loop = loop
        self._keep_body = keep_body
        self._transport: asyncio.Transport | None = None
        self._reader = ResponseReader()
        self._answer: asyncio.Future[ResponseReader] | None = None
        self.idle_since = loop.time()

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def begin(self, data: bytes) -> asyncio.Future[ResponseReader]:
        """Sends the first bytes of a request. The future returns the complete response, or raises ConnectionError."""
        self._reader = ResponseReader(self._keep_body)
        self._answer = self._loop.create_future()
        # If the run is stopped, nothing awaits the future: take its exception, so that asyncio does not log it.
        self._answer.add_done_callback(lambda future: future.cancelled() or future.exception())
        self.write(data)
        return self._answer

    def write(self, data: bytes | memoryview) -> None:
        """Sends more of the request. Never waits: bytes that the socket does not accept yet are buffered."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except ValueError as error:
            self._fail(error)
            return
        if self._reader.done and self._answer is not None and not self._answer.done():
            self._answer.set_result(self._reader)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            try:
                self._reader.end()
            except ValueError as cut_off:
                self._fail(error or cut_off)
            else:
                self._answer.set_result(self._reader)

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(str(error)))
        self.close()


class ConnectionPool:
    """Connections to one address, as many as are in use at once; `keep_body` as for `ResponseReader`."""

    def __init__(self, address: Address, keep_body: bool = False) -> None:
        self._address = address
        self._keep_body = keep_body
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()

    async def take(self) -> Connection:
        """Returns the connection used last, or a new one. Raises OSError if the server accepts no connection."""
        loop = asyncio.get_running_loop()
        while self._idle:
            connection = self._idle.pop()
            if connection.open and loop.time() - connection.idle_since < IDLE_LIMIT_S:
                return connection
            self._drop(connection)
        _, connection = await loop.create_connection(
            lambda: Connection(loop, self._keep_body), self._address.host, self._address.port, ssl=self._address.tls
        )
        self._all.add(connection)
        return connection

    def give_back(self, connection: Connection, reusable: bool) -> None:
        """Returns a connection. `reusable`: its request was sent completely and answered with keep-alive."""
        if reusable and connection.open:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            self._drop(connection)

    def close(self) -> None:
        for connection in list(self._all):
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        connection.close()
        self._all.discard(connection)
