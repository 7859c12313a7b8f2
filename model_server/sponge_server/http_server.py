"""One HTTP port: a bound socket, an application, start and stop. The only module that knows the HTTP server in use."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Generator

import uvicorn
from starlette.types import ASGIApp

from sponge_core.errors import SpongeError

__all__ = ["HttpServer", "listen"]

KEEP_ALIVE_S = 75
"""Longer than clients commonly keep an idle connection: they close it, and no request meets a closed one."""

CLOSE_GRACE_S = 3
"""For connections that are still writing an answer when the server stops."""

BACKLOG = 2048


def listen(host: str, port: int, option: str) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises SpongeError naming `option` when the address cannot be had."""
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
                f"port {port} on {host} is in use: stop who uses it, or choose another with {option}"
            ) from None
        raise SpongeError(f"cannot listen on {host}:{port}: {error.strerror}; choose another with {option}") from None
    return sock


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Ends `serve` in an orderly way."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        """Renews the date header once a second; the library's own loop wakes up ten times as often, for nothing."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), 1.0)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the application's: two of these servers share one loop and one orderly end."""
        yield


class HttpServer:
    """Serves `app` on `sock`."""

    def __init__(self, app: ASGIApp, sock: socket.socket) -> None:
        self._sock = sock
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=CLOSE_GRACE_S,
            )
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        port: int = self._sock.getsockname()[1]
        return port

    async def start(self) -> None:
        """Returns once connections are taken."""
        self._task = asyncio.get_running_loop().create_task(self._server.serve(sockets=[self._sock]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise SpongeError("the HTTP server ended before it had started")
            await asyncio.sleep(0)

    async def stop(self) -> None:
        """Takes no more connections, lets the open ones finish their answer, ends. Does nothing if never started."""
        if self._task is not None:
            self._server.leave()
            await self._task
