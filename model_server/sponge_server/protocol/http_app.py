"""The data port's application: Open Inference Protocol V2 routes, `/docs`, and problem+json for whatever goes wrong.

Thin: every answer comes from the data plane. The hot path goes past the web framework; the rest is described by types,
so that `/docs` is true.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sponge_server.control.control_app import problem_response
from sponge_server.dataplane import EXTENSIONS, MODEL_VERSION, SERVER_NAME, SERVER_VERSION, DataPlane
from sponge_server.protocol.openapi import PROBLEMS, describe, serve_docs
from sponge_server.protocol.problems import ProblemError
from sponge_server.protocol.rest import InferEndpoint
from sponge_server.workers.interface import TensorSpec

__all__ = ["data_app"]

INFER = "/v2/models/{model}/infer"
INFER_VERSION = "/v2/models/{model}/versions/{version}/infer"
HOT_PATH = re.compile(r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer")
"""The two of them, for requests that do not go through the web framework."""

MODEL_PROBLEMS: dict[int | str, dict[str, Any]] = {status: PROBLEMS[status] for status in (404, 503)}


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    live: bool


class Ready(BaseModel):
    ready: bool


class ModelReady(BaseModel):
    name: str
    ready: bool


class TensorMetadata(BaseModel):
    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


def data_app(plane: DataPlane, infer: InferEndpoint) -> ASGIApp:
    """The ASGI application of the data port: inference goes straight to its endpoint, all else to the web framework."""
    rest = described_app(plane, infer)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # The framework's layers and its matching of routes cost as much as a decision of the engine.
        hot = HOT_PATH.fullmatch(scope["path"]) if scope.get("method") == "POST" else None
        if hot is None:
            await rest(scope, receive, send)
        else:
            scope["path_params"] = hot.groupdict()
            await infer(scope, receive, send)

    return app


def described_app(plane: DataPlane, infer: InferEndpoint) -> FastAPI:
    """Every route with its description, inference too."""
    app = FastAPI(
        title="Sponge model server",
        version=SERVER_VERSION,
        summary="Open Inference Protocol V2; every request by its own deadline.",
        exception_handlers={ProblemError: _on_problem, HTTPException: _on_problem},
        docs_url=None,
        redoc_url=None,
    )

    @app.get("/v2", tags=["server"])
    async def server_metadata() -> ServerMetadata:
        """Name, version and protocol extensions of this server."""
        return ServerMetadata(name=SERVER_NAME, version=SERVER_VERSION, extensions=list(EXTENSIONS))

    @app.get("/v2/health/live", tags=["server"])
    async def live() -> Live:
        """The process answers."""
        return Live(live=True)

    @app.get("/v2/health/ready", tags=["server"], responses={503: PROBLEMS[503]})
    async def ready() -> Ready:
        """Requests are taken; 503 while models load and while the server drains."""
        plane.check_ready()
        return Ready(ready=True)

    @app.get("/v2/models/{model}", tags=["model"], responses=MODEL_PROBLEMS)
    @app.get("/v2/models/{model}/versions/{version}", tags=["model"], responses=MODEL_PROBLEMS)
    async def model_metadata(model: str, version: str | None = None) -> ModelMetadata:
        """Inputs and outputs of the model; -1 stands for any size, the first dimension counts the rows of a request."""
        info = plane.described(model, version).info
        return ModelMetadata(
            name=model,
            versions=[MODEL_VERSION],
            platform=info.platform,
            inputs=[_tensor(spec) for spec in info.inputs],
            outputs=[_tensor(spec) for spec in info.outputs],
        )

    @app.get("/v2/models/{model}/ready", tags=["model"], responses=MODEL_PROBLEMS)
    @app.get("/v2/models/{model}/versions/{version}/ready", tags=["model"], responses=MODEL_PROBLEMS)
    async def model_ready(model: str, version: str | None = None) -> ModelReady:
        """This model takes requests."""
        plane.described(model, version)
        plane.check_ready()
        return ModelReady(name=model, ready=True)

    # In front: a request is matched against the routes one after the other.
    app.router.routes[:0] = [
        Route(path, infer, methods=["POST"], include_in_schema=False) for path in (INFER, INFER_VERSION)
    ]
    serve_docs(app)
    describe(app, INFER, INFER_VERSION)
    return app


async def _on_problem(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = ProblemError(error.status_code, "http", error.detail)
    assert isinstance(error, ProblemError)
    return problem_response(error)


def _tensor(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(name=spec.name, datatype=spec.datatype, shape=[-1, *spec.shape])
