"""The last resort of every port: an error that nothing else caught becomes a problem, a log line and a count."""

from __future__ import annotations

import logging

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sponge_server.protocol.problems import PROBLEM_TYPE, ProblemError

__all__ = ["BUG", "BUG_EVENT", "CatchAll"]

log = logging.getLogger(__name__)

BUG_EVENT = "edge.bug"

BUG = ProblemError(500, "internal", f"the server failed on this request: its log says why, under {BUG_EVENT}")
"""What the client sees; the error itself may tell a stranger too much."""


class CatchAll:
    """ASGI application around another one."""

    def __init__(self, app: ASGIApp, errors: Counter, port: str) -> None:
        """`errors` counts by the label `port`."""
        self._app = app
        self._errors = errors
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = complete = False

        async def watched(message: Message) -> None:
            nonlocal started, complete
            started = True
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            log.exception(BUG_EVENT)
            self._errors.labels(self._port).inc()
            if not started:
                body = BUG.body()
                headers = [(b"content-type", PROBLEM_TYPE.encode()), (b"content-length", b"%d" % len(body))]
                await send({"type": "http.response.start", "status": BUG.status, "headers": headers})
                await send({"type": "http.response.body", "body": body})
            elif not complete:
                raise  # the connection ends, so that nobody takes half an answer for a whole one
