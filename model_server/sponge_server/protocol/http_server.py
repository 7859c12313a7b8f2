"""One HTTP port: a bound socket, an application, start and stop. Adapts uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import ssl
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import uvicorn
from prometheus_client import Counter
from starlette.types import ASGIApp

from sponge_core.addresses import authority
from sponge_core.errors import SpongeError
from sponge_server.protocol.http_connection import CLOSE_GRACE_S, HttpConfig, HttpConnection, HttpLimits
from sponge_server.protocol.tls_listener import TlsListener
from sponge_system.logs import event
from sponge_system.network import EVERY_INTERFACE, every_interface

__all__ = ["CLOSE_GRACE_S", "HttpLimits", "HttpServer", "PortTls", "listen", "make_room"]

log = logging.getLogger(__name__)

PORTS = 3
"""Ports with connections of their own: REST, gRPC, control."""

OTHER_FILES = 1024
"""Number of open files besides connections and lanes: logs, pipes, and connections that are being refused."""

FILES_PER_LANE = 8
"""Socket and shared memory of a lane, and as much again while it is replaced."""


def listen(host: str, port: int, option: str) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises SpongeError, naming `option`, if the address is not available."""
    is_any = host == EVERY_INTERFACE
    host = every_interface() if is_any else host
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        sock = socket.socket(family, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_any and family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # whatever the system's default
        sock.bind(address)
    except socket.gaierror as error:
        raise SpongeError(f"--host {host}: {error.strerror}") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SpongeError(
                f"port {port} on {host} is in use: stop the process that uses it, or choose another port with {option}"
            ) from None
        raise SpongeError(
            f"cannot listen on {authority(host, port)}: {error.strerror}; choose another port with {option}"
        ) from None
    return sock


def make_room(connections: int, lanes: int, handshakes: int = 0) -> int:
    """Raises this process's limit of open files, as far as permitted, to fit `connections` on every port, and `lanes`.

    Args:
        handshakes: of all ports together; they come on top of the connections.

    Returns:
        How many connections each port may have so that files are left for everything else: `connections`, or fewer.
    """
    others = OTHER_FILES + FILES_PER_LANE * lanes + handshakes
    needed = PORTS * connections + others
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == needed:
        return connections
    fewer = max(1, (allowed - others) // PORTS, allowed // (2 * PORTS))
    event(log, "http.few_open_files", logging.WARNING, limit=allowed, needed=needed, connections=fewer)
    return min(connections, fewer)


@dataclass(frozen=True, slots=True)
class PortTls:
    """TLS of a port: what gives the context of the next handshake, and a counter of failed ones by `reason`."""

    context: Callable[[], ssl.SSLContext]
    failures: Counter


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: HttpConfig, tls: PortTls | None) -> None:
        super().__init__(config)
        self._own = config
        self._tls = tls
        self._leaving = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens; with TLS, by a listener of its own."""
        if self._tls is None:
            await super().startup(sockets)
            return
        assert sockets is not None
        tls, limits = self._tls, self._own.limits
        listeners: list[Any] = [
            TlsListener(each, tls.context, self._connection, limits, tls.failures) for each in sockets
        ]
        self.servers = listeners
        self.started = True

    def _connection(self) -> HttpConnection:
        return HttpConnection(config=self._own, server_state=self.server_state, app_state={})

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

    def __init__(self, app: ASGIApp, sock: socket.socket, limits: HttpLimits, tls: PortTls | None = None) -> None:
        # Inherited by every connection; otherwise a response that is never read would be kept forever.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(limits.write_timeout_s * 1000))
        self._sock = sock
        self._config = HttpConfig(app, limits)
        self._server = _Uvicorn(self._config, tls)
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
            assert isinstance(connection, HttpConnection)
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
                assert isinstance(connection, HttpConnection)
                connection.transport.abort()
