"""The control port: metrics and health for everyone, state and apply for who holds the token.

Thin: parses, checks the token, calls `StateBoard` and `Applier`, renders. Knows nothing of scheduling.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sponge_core.control_api import ApplyRequest
from sponge_server.control.reconfigure import Applier, StaleVersionError
from sponge_server.control.state_publisher import StateBoard
from sponge_server.lifecycle import Status
from sponge_server.observability.metrics import Metrics
from sponge_server.protocol.problems import PROBLEM_TYPE, ProblemError

__all__ = ["Control", "control_app", "problem_response"]

T = TypeVar("T")
N = TypeVar("N", int, float)

LONGEST_WAIT_S = 30.0
LARGEST_MESSAGE = 64 << 10


@dataclass(slots=True)
class Control:
    """What the control port answers from. `board` and `applier` are None until the model has been loaded."""

    status: Status
    metrics: Metrics
    token: str | None
    refresh: Callable[[], None] = lambda: None
    board: StateBoard | None = None
    applier: Applier | None = None


def control_app(control: Control) -> Starlette:
    """The ASGI application of the control port."""

    async def metrics(_: Request) -> Response:
        control.refresh()
        body, content_type = control.metrics.render()
        return Response(body, headers={"content-type": content_type})

    async def healthz(_: Request) -> Response:
        return JSONResponse({"alive": True})

    async def readyz(_: Request) -> Response:
        status = control.status
        return JSONResponse({"ready": status.ready, "phase": status.phase}, 200 if status.ready else 503)

    async def state(request: Request) -> Response:
        _authorise(request, control.token)
        board = _loaded(control.board, control.status)
        since = _query(request, "since", int, 0)
        wait_s = _query(request, "wait_s", float, 0.0)
        snapshot = await board.read(since, min(wait_s or 0.0, LONGEST_WAIT_S))
        return Response(snapshot.model_dump_json(), media_type="application/json")

    async def apply(request: Request) -> Response:
        _authorise(request, control.token)
        applier = _loaded(control.applier, control.status)
        body = await request.body()
        if len(body) > LARGEST_MESSAGE:
            raise ProblemError(413, "too-large", f"the message has {len(body)} bytes, at most {LARGEST_MESSAGE} fit")
        try:
            message = ApplyRequest.model_validate_json(body)
        except ValidationError as invalid:
            first = invalid.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            raise ProblemError(422, "invalid-message", f"{where}: {first['msg']}") from None
        try:
            ack = await applier.apply(message)
        except StaleVersionError as stale:
            raise ProblemError(409, "stale-version", str(stale)) from None
        return Response(ack.model_dump_json(), media_type="application/json")

    async def on_problem(_: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return problem_response(ProblemError(error.status_code, "http", error.detail))
        assert isinstance(error, ProblemError)
        return problem_response(error)

    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/control/v1/state", state),
            Route("/control/v1/apply", apply, methods=["POST"]),
        ],
        exception_handlers={ProblemError: on_problem, HTTPException: on_problem},
    )


def problem_response(problem: ProblemError) -> Response:
    """A problem as a response of the web framework."""
    headers = {name.decode(): value.decode() for name, value in problem.headers}
    return Response(problem.body(), problem.status, headers, PROBLEM_TYPE)


def _authorise(request: Request, token: str | None) -> None:
    if token is None:
        raise ProblemError(403, "control-off", "control is off: start the server with --control-token-file")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise ProblemError(
            401,
            "token-required",
            "send the content of the control token file as 'Authorization: Bearer TOKEN'",
            [(b"www-authenticate", b"Bearer")],
        )


def _loaded(part: T | None, status: Status) -> T:
    if part is None:
        raise ProblemError(503, "not-ready", f"not ready: {status.text}", [(b"retry-after", b"1")])
    return part


def _query(request: Request, name: str, kind: type[N], lowest: N) -> N | None:
    raw = request.query_params.get(name)
    if raw is None:
        return None
    try:
        value = kind(raw)
    except ValueError:
        value = None
    if value is None or not value >= lowest:
        raise ProblemError(400, "invalid-query", f"{name} is {raw!r}: give a number >= {lowest}")
    return value
