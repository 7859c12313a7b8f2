"""One HTTP port: a bound socket, an application, start and stop. Adapts uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sponge_core.errors import SpongeError
from sponge_server.protocol.problems import PROBLEM_TYPE, ProblemError, retry_after
from sponge_system.logs import event

__all__ = ["CLOSE_GRACE_S", "HttpLimits", "HttpServer", "listen", "make_room"]

log = logging.getLogger(__name__)

CLOSE_GRACE_S = 3
"""Seconds for connections that are still sending a response when the server stops."""

OTHER_FILES = 512
"""Number of open files besides the connections: lanes, pipes, the control port."""

LINGER_S, LINGER_BYTES = 1.0, 16 << 20
"""Lingering close: read and discard up to 1 s or 16 MiB after the last response of a connection. If it were closed at
once, it would be reset, and a client that writes before it reads would not see the response."""

MOST_HEAD = 64 << 10
"""Bytes of a request besides its body: request line, headers, framing of chunks. The parser itself has no limit."""

FRAMING_PER_BYTE = 8
"""Bytes of framing allowed per byte of body: a chunk of a single byte needs five."""

MALFORMED = ProblemError(400, "malformed", "this is not valid HTTP/1.1: check the request line and headers")
TOO_LONG = ProblemError(431, "headers-too-large", f"the headers take more than {MOST_HEAD} bytes: send less")
TOO_SLOW = ProblemError(408, "too-slow", "the headers of the request did not arrive in time: send them at once")
TOO_MANY = ProblemError(
    503,
    "too-many-connections",
    "the server has reached its limit of connections: use fewer, and keep them open",
    retry_after(0),
)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of one port.

    Attributes:
        header_timeout_s: time for the headers of a request, from its first byte; for the first request of a connection,
            from the start of the connection.
        keep_alive_s: how long a connection may be idle between requests.
        write_timeout_s: how long a client may leave a response unread.
        max_connections: open connections; more are refused with 503.
        backlog: connections that the kernel queues until they are accepted.
    """

    header_timeout_s: float
    keep_alive_s: float
    write_timeout_s: float
    max_connections: int
    backlog: int


def listen(host: str, port: int, option: str) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises SpongeError, naming `option`, if the address is not available."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        sock = socket.socket(family, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except socket.gaierror as error:
        raise SpongeError(f"--host {host}: {error.strerror}") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SpongeError(
                f"port {port} on {host} is in use: stop the process that uses it, or choose another port with {option}"
            ) from None
        raise SpongeError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another port with {option}"
        ) from None
    return sock


class _Config(uvicorn.Config):
    def __init__(self, app: ASGIApp, limits: HttpLimits) -> None:
        super().__init__(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=limits.backlog,
            timeout_graceful_shutdown=CLOSE_GRACE_S,
        )
        self.limits = limits
        self.leaving = False


class _Protocol(HttpToolsProtocol):
    """One connection. Adds a limit of connections, a timeout for headers and a lingering close to the library's."""

    def __init__(self, config: _Config, *args: Any, **more: Any) -> None:
        super().__init__(config, *args, **more)
        self._own = config
        self.timeout_keep_alive = config.limits.keep_alive_s  # type: ignore[assignment]
        self._ended = False
        self._discarded_bytes = 0
        self._reading = False
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._responses = _ResponseTransport(self, transport)
        if len(self.connections) > self._own.limits.max_connections:
            self._refuse()
        else:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ended:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await_headers()
        self._reading = True
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MOST_HEAD and not self._ended and not self.transport.is_closing():
            self._fail_with(TOO_LONG)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the library's text does not name the fix
        self._fail_with(MALFORMED)

    def on_body(self, body: bytes) -> None:
        self._head_bytes -= FRAMING_PER_BYTE * len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._disarm()
        self._reading = False
        self._head_bytes = 0
        super().on_headers_complete()
        self.cycle.transport = self._responses  # type: ignore[assignment]
        if self._own.leaving:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        if not self._ended:
            super().on_response_complete()

    def end(self) -> None:
        """Closes the connection after its last response, but not while its client is still sending."""
        if self.cycle is None or not self.cycle.more_body:
            self.transport.close()
        else:
            self._close_lingering()

    def leave(self) -> None:
        """Makes the response to the present request the last one of this connection."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def _await_headers(self) -> None:
        self._timer = self.loop.call_later(self._own.limits.header_timeout_s, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            if self._reading:
                self._fail_with(TOO_SLOW)
            else:
                self.transport.close()

    def _fail_with(self, problem: ProblemError) -> None:
        """Responds in place of the application, unless it is responding already, and closes."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_response(problem))
        self._close_lingering()

    def _close_lingering(self) -> None:
        if self._ended or self.transport.is_closing():
            return
        self._ended = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._disarm()
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self.transport.abort)

    def _refuse(self) -> None:
        self.connections.discard(self)
        event(log, "http.too_many_connections", logging.WARNING, most=self._own.limits.max_connections)
        self.transport.write(_response(TOO_MANY))
        self._close_lingering()


class _ResponseTransport:
    """The connection's transport as responses see it; the connection decides when it is closed."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, connection: _Protocol, transport: asyncio.Transport) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = connection.end


def _response(problem: ProblemError) -> bytes:
    """A complete response, for requests that no application sees."""
    body = problem.body()
    extra = "".join(f"{name.decode()}: {value.decode()}\r\n" for name, value in problem.headers)
    head = (
        f"HTTP/1.1 {problem.status} {problem.title}\r\nContent-Type: {PROBLEM_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n{extra}Connection: close\r\n\r\n"
    )
    return head.encode() + body


def make_room(connections: int) -> None:
    """Raises this process's limit of open files to fit `connections`, as far as permitted."""
    needed = connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < needed:
            event(log, "http.few_open_files", logging.WARNING, limit=allowed, needed=needed)


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Ends `serve` gracefully."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        """Updates the date header once a second; the library's own loop wakes up ten times as often, without need."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), 1.0)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leaves signals to the application, because two of these servers share one loop and one shutdown."""
        yield


class HttpServer:
    """Serves `app` on `sock`."""

    def __init__(self, app: ASGIApp, sock: socket.socket, limits: HttpLimits) -> None:
        # Inherited by every connection; otherwise a response that is never read would be kept forever.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(limits.write_timeout_s * 1000))
        self._sock = sock
        self._config = _Config(app, limits)
        self._server = _Uvicorn(self._config)
        self._task: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._server.server_state.connections)

    @property
    def port(self) -> int:
        port: int = self._sock.getsockname()[1]
        return port

    async def start(self) -> None:
        """Returns once connections are accepted."""
        self._task = asyncio.get_running_loop().create_task(self._server.serve(sockets=[self._sock]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise SpongeError("the HTTP server ended before it had started")
            await asyncio.sleep(0)

    def leave(self) -> None:
        """From now on every response is the last one of its connection; new connections are still accepted."""
        self._config.leaving = True
        for connection in self._server.server_state.connections:
            assert isinstance(connection, _Protocol)
            connection.leave()

    async def stop(self, grace_s: float = CLOSE_GRACE_S) -> None:
        """Accepts no more connections, lets open ones finish their response for at most `grace_s` seconds, and ends.

        Does nothing if the port was never started.
        """
        if self._task is not None:
            self._config.timeout_graceful_shutdown = grace_s  # type: ignore[assignment]
            self._server.leave()
            await self._task
            for connection in list(self._server.server_state.connections):
                assert isinstance(connection, _Protocol)
                connection.transport.abort()
