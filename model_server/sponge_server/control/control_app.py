"""Web application of the control port: metrics and health for everyone; state, sizes and sources with the token."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from sponge_core.control_api import ApplyRequest, ReleaseRequest, SourceRequest
from sponge_server.control.load_feed import LoadFeed
from sponge_server.control.operator_watch import OperatorWatch
from sponge_server.control.reconfigure import Reconfigurer, StaleVersionError
from sponge_server.control.state_publisher import StatePublisher
from sponge_server.lifecycle import Loaded
from sponge_server.observability.gauges import Gauges
from sponge_server.observability.metrics import Metrics
from sponge_server.protocol.catch_all import CatchAll
from sponge_server.protocol.model_control import ModelControl
from sponge_server.protocol.problem_response import EXCEPTION_HANDLERS, read_small
from sponge_server.protocol.problems import ProblemError
from sponge_server.security.control_token import ControlToken, authorise
from sponge_server.startup.profile_board import ProfileBoard

__all__ = ["Control", "control_app"]

N = TypeVar("N", int, float)
M = TypeVar("M", ApplyRequest, ReleaseRequest, SourceRequest)

LONGEST_WAIT_S = 30.0
LARGEST_MESSAGE = 64 << 10


@dataclass(frozen=True, slots=True)
class Control:
    """What the control port serves once the models are loaded."""

    publisher: StatePublisher
    reconfigurer: Reconfigurer
    gauges: Gauges
    operator: OperatorWatch
    load: LoadFeed


@dataclass(frozen=True, slots=True)
class _Endpoints:
    """What answers on the control port.

    Attributes:
        token: of state, load, apply, release and profile; None keeps them closed.
        board: the latency profile of the first model.
        models: guards the sources.
    """

    control: Loaded[Control]
    metrics: Metrics
    token: ControlToken | None
    board: ProfileBoard
    models: ModelControl

    async def render_metrics(self, _: Request) -> Response:
        if self.control.part is not None:
            self.control.part.gauges.refresh()
        body, content_type = self.metrics.render()
        return Response(body, headers={"content-type": content_type})

    async def healthz(self, _: Request) -> Response:
        alive = self.control.lifecycle.alive
        return JSONResponse({"alive": alive}, 200 if alive else 503)

    async def readyz(self, _: Request) -> Response:
        control, lifecycle = self.control, self.control.lifecycle
        found: dict[str, object] = {"ready": lifecycle.ready, "phase": lifecycle.reason}
        if control.part is not None and (gone_s := control.part.operator.gone_s):
            cores = control.part.publisher.cores_milli / 1000
            found["operator"] = f"silent for {gone_s:.0f} s; the server stays at {cores:g} cores"
        return JSONResponse(found, 200 if lifecycle.ready else 503)

    async def state(self, request: Request) -> Response:
        publisher = self._opened(request).publisher
        since = _query(request, "since", int, 0)
        wait_s = _query(request, "wait_s", float, 0.0)
        quota_milli = _query(request, "quota_milli", int, 1)
        wait_s = min(wait_s or 0.0, LONGEST_WAIT_S)
        if quota_milli is None:
            snapshot = await publisher.read(since, wait_s)
        else:
            snapshot = await publisher.read_at_quota(quota_milli, wait_s)
        return _told(snapshot)

    async def load(self, request: Request) -> Response:
        lines = self._opened(request).load.lines()
        first = await anext(lines)

        async def document() -> AsyncIterator[bytes]:
            async with contextlib.aclosing(lines):
                yield first
                async for line in lines:
                    yield line

        return StreamingResponse(document(), media_type="application/x-ndjson")

    async def profile(self, request: Request) -> Response:
        self._authorise(request)
        return _told(self.board.read())

    async def apply(self, request: Request) -> Response:
        reconfigurer = self._opened(request).reconfigurer
        message = await _message(request, ApplyRequest)
        with _stale_versions_refused():
            return _told(await reconfigurer.apply(message))

    async def release(self, request: Request) -> Response:
        reconfigurer = self._opened(request).reconfigurer
        message = await _message(request, ReleaseRequest)
        with _stale_versions_refused():
            return _told(reconfigurer.release(message))

    async def source(self, request: Request) -> Response:
        repository = self.models.enter(request.headers.get("authorization", ""))
        name = request.path_params["model"]
        if request.method == "POST":
            return _told(repository.serve(name, (await _message(request, SourceRequest)).source))
        return _told(repository.report(name))

    def _opened(self, request: Request) -> Control:
        """The part that serves once the models are loaded. Raises ProblemError 401, 403, 503."""
        self._authorise(request)
        return self.control.get()

    def _authorise(self, request: Request) -> None:
        closed = "control is off: start the server with --control-token-file"
        authorise(self.token, request.headers.get("authorization", ""), closed)


def control_app(
    control: Loaded[Control], metrics: Metrics, token: ControlToken | None, board: ProfileBoard, models: ModelControl
) -> ASGIApp:
    """The ASGI application of the control port; the arguments are as in `_Endpoints`."""
    endpoints = _Endpoints(control, metrics, token, board, models)
    app = Starlette(
        routes=[
            Route("/metrics", endpoints.render_metrics),
            Route("/healthz", endpoints.healthz),
            Route("/readyz", endpoints.readyz),
            Route("/control/v1/state", endpoints.state),
            Route("/control/v1/load", endpoints.load),
            Route("/control/v1/profile", endpoints.profile),
            Route("/control/v1/apply", endpoints.apply, methods=["POST"]),
            Route("/control/v1/release", endpoints.release, methods=["POST"]),
            Route("/control/v1/models/{model}/source", endpoints.source, methods=["GET", "POST"]),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    return CatchAll(app, metrics.internal_errors, "control")


@contextlib.contextmanager
def _stale_versions_refused() -> Iterator[None]:
    try:
        yield
    except StaleVersionError as stale:
        raise ProblemError(409, "stale-version", str(stale)) from None


def _told(message: BaseModel) -> Response:
    return Response(message.model_dump_json(), media_type="application/json")


async def _message(request: Request, kind: type[M]) -> M:
    body = await read_small(request, LARGEST_MESSAGE, "message")
    try:
        return kind.model_validate_json(body)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise ProblemError(422, "invalid-message", f"{where}: {first['msg']}") from None


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
