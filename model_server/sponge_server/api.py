"""The data port's application: Open Inference Protocol V2 routes, `/docs`, and problem+json for whatever goes wrong.

Thin: every answer comes from the data plane. The hot path is a plain route that the web framework only matches; the
rest is described by types, so that `/docs` is true.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sponge_server.control import problem_response
from sponge_server.dataplane import EXTENSIONS, MODEL_VERSION, SERVER_NAME, SERVER_VERSION, DataPlane
from sponge_server.lanes.interface import TensorSpec
from sponge_server.problems import PROBLEM_TYPE, ProblemError
from sponge_server.rest import InferEndpoint

__all__ = ["data_app"]

INFER = "/v2/models/{model}/infer"
INFER_VERSION = "/v2/models/{model}/versions/{version}/infer"


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


def data_app(plane: DataPlane, infer: InferEndpoint) -> FastAPI:
    """The ASGI application of the data port."""
    app = FastAPI(
        title="Sponge model server",
        version=SERVER_VERSION,
        summary="Open Inference Protocol V2; every request by its own deadline.",
        exception_handlers={ProblemError: _on_problem, HTTPException: _on_problem},
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

    @app.get("/v2/health/ready", tags=["server"])
    async def ready() -> Ready:
        """Requests are taken; 503 while the model loads and while the server drains."""
        plane.check_ready()
        return Ready(ready=True)

    @app.get("/v2/models/{model}", tags=["model"])
    @app.get("/v2/models/{model}/versions/{version}", tags=["model"])
    async def model_metadata(model: str, version: str | None = None) -> ModelMetadata:
        """Inputs and outputs of the model; -1 stands for any size, the first dimension counts the rows of a request."""
        plane.check_model(model, version)
        info = plane.described()
        return ModelMetadata(
            name=model,
            versions=[MODEL_VERSION],
            platform=info.platform,
            inputs=[_tensor(spec) for spec in info.inputs],
            outputs=[_tensor(spec) for spec in info.outputs],
        )

    @app.get("/v2/models/{model}/ready", tags=["model"])
    @app.get("/v2/models/{model}/versions/{version}/ready", tags=["model"])
    async def model_ready(model: str, version: str | None = None) -> ModelReady:
        """This model takes requests."""
        plane.check_model(model, version)
        plane.check_ready()
        return ModelReady(name=model, ready=True)

    # In front: a request is matched against the routes one after the other.
    app.router.routes[:0] = [
        Route(path, infer, methods=["POST"], include_in_schema=False) for path in (INFER, INFER_VERSION)
    ]
    _describe_infer(app)
    return app


async def _on_problem(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = ProblemError(error.status_code, "http", error.detail)
    assert isinstance(error, ProblemError)
    return problem_response(error)


def _tensor(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(name=spec.name, datatype=spec.datatype, shape=[-1, *spec.shape])


def _describe_infer(app: FastAPI) -> None:
    """Adds the hot path, which has no types of the framework's, to the generated description."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = generate()
            app.openapi_schema["paths"][INFER] = {"post": _INFER_OPERATION}
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _header(name: str, kind: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": {"type": kind}, "description": text}


def _problem(text: str) -> dict[str, Any]:
    return {"description": text, "content": {PROBLEM_TYPE: {"schema": {"type": "object"}}}}


_INFER_OPERATION: dict[str, Any] = {
    "tags": ["model"],
    "summary": "Run the model on one request.",
    "description": (
        "JSON tensors, binary tensors behind a JSON part (`Inference-Header-Content-Length`), or one encoded image. "
        "The deadline is the most specific of: `x-sponge-slo-ms`, `x-sponge-slo-class`, `parameters.timeout` in the "
        "body (microseconds), `x-request-timeout-seconds`, `x-envoy-expected-rq-timeout-ms`, `grpc-timeout`, the "
        "server's default; "
        "it counts from `x-sponge-sent-at` if that is plausible, else from the arrival of the headers."
    ),
    "parameters": [
        {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}},
        _header("x-sponge-slo-ms", "number", "End-to-end milliseconds for this request."),
        _header("x-sponge-slo-class", "string", "Name of a class that the server was started with."),
        _header("x-sponge-sent-at", "number", "When the client sent the request, in epoch seconds."),
        _header("Inference-Header-Content-Length", "integer", "Bytes of JSON before the binary tensors."),
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name", "datatype", "shape"],
                                "properties": {
                                    "name": {"type": "string"},
                                    "datatype": {"type": "string"},
                                    "shape": {"type": "array", "items": {"type": "integer"}},
                                    "parameters": {"type": "object"},
                                    "data": {"type": "array", "items": {}},
                                },
                            },
                        },
                        "outputs": {"type": "array", "items": {"type": "object"}},
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
            "image/png": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "responses": {
        "200": {
            "description": "The outputs; `Server-Timing` tells network, queue, batch and infer time.",
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "400": _problem("Not a request of the protocol, or a header that cannot be understood."),
        "404": _problem("No such model or version."),
        "413": _problem("The body is too large."),
        "415": _problem("Unsupported Content-Type."),
        "422": _problem("The tensors do not fit the model, or an image cannot be decoded."),
        "500": _problem("The model failed."),
        "503": _problem("Shed: it could not be met on arrival; or the server is not ready. See Retry-After."),
        "504": _problem("The deadline cannot be met any more."),
    },
}
