"""The live page: serves the newest document on loopback, from a thread of its own.

Plotly's JavaScript comes from the installed package: the page fetches nothing from the network.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from plotly.offline import get_plotlyjs
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from sponge_demo.backend import DemoError

__all__ = ["HOST", "LivePage", "asset"]

HOST = "127.0.0.1"
LOOK_S = 0.1
KEEP_ALIVE_S = 10.0


def asset(name: str) -> str:
    """A file of the page."""
    return (files("sponge_demo") / "static" / name).read_text(encoding="utf-8")


class LivePage:
    """A web server while in its context.

    Args:
        port: to listen on; 0 takes a free one.

    Raises:
        DemoError: the port is taken.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((HOST, port))
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            raise DemoError(f"--port {port}: {error.strerror}; give a free one, or 0 for any") from None
        self.url = f"http://{HOST}:{self._socket.getsockname()[1]}"
        self._newest = ""
        self._report: Path | None = None
        config = uvicorn.Config(self._app(), log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="demo page", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=5.0)
        self._socket.close()

    def publish(self, document: dict[str, Any], report: Path | None = None) -> None:
        """Shows `document` from now on; its link leads to `report`."""
        self._report = report
        self._newest = json.dumps(document, separators=(",", ":"))

    def _serve(self) -> None:
        # Not Server.run: that would take over the process's signals.
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def _app(self) -> Starlette:
        async def html(_: Request) -> Response:
            return Response(asset("page.html"), media_type="text/html")

        async def css(_: Request) -> Response:
            return Response(asset("page.css"), media_type="text/css")

        async def js(_: Request) -> Response:
            return Response(asset("page.js"), media_type="text/javascript")

        async def plotly(_: Request) -> Response:
            return Response(get_plotlyjs(), media_type="text/javascript", headers={"cache-control": "max-age=86400"})

        async def events(request: Request) -> Response:
            headers = {"cache-control": "no-store"}
            return StreamingResponse(self._events(request), media_type="text/event-stream", headers=headers)

        async def report(_: Request) -> Response:
            if self._report is None:
                return PlainTextResponse("The report is not written yet.", status_code=404)
            return FileResponse(self._report)

        return Starlette(
            routes=[
                Route("/", html),
                Route("/page.css", css),
                Route("/page.js", js),
                Route("/plotly.min.js", plotly),
                Route("/events", events),
                Route("/report", report),
            ]
        )

    async def _events(self, request: Request) -> AsyncIterator[str]:
        """Each new document as a server-sent event, the newest one at once."""
        sent = ""
        quiet_s = 0.0
        while not self._server.should_exit and not await request.is_disconnected():
            newest = self._newest
            if newest != sent:
                sent, quiet_s = newest, 0.0
                yield f"data: {newest}\n\n"
            elif quiet_s >= KEEP_ALIVE_S:
                quiet_s = 0.0
                yield ": still here\n\n"
            quiet_s += LOOK_S
            await asyncio.sleep(LOOK_S)
