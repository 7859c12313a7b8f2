"""Web application of the data port: metadata and health routes of the Open Inference Protocol V2, and `/docs`.

Inference requests are served by `rest.RestEndpoint`, in front of this application. They are described here too, so that
`/docs` is complete. Errors are problem+json.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from sponge_server.inference_service import InferenceService
from sponge_server.lifecycle import Lifecycle, Loaded
from sponge_server.protocol.extensions import EXTENSIONS
from sponge_server.protocol.http_extensions import add_extensions
from sponge_server.protocol.http_repository import add_repository
from sponge_server.protocol.model_control import ModelControl
from sponge_server.protocol.oip import SERVER_NAME, SERVER_VERSION
from sponge_server.protocol.openapi import PROBLEMS, describe, serve_docs
from sponge_server.protocol.problem_response import EXCEPTION_HANDLERS
from sponge_server.workers.interface import ModelInfo, TensorSpec

__all__ = ["data_app"]

INFER = "/v2/models/{model}/infer"
INFER_VERSION = "/v2/models/{model}/versions/{version}/infer"

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


def data_app(service: Loaded[InferenceService], control: ModelControl | None = None) -> FastAPI:
    """Every route of the data port with its description, except inference itself.

    Args:
        control: for loading and unloading models; None: that is off.
    """
    lifecycle = service.lifecycle
    app = FastAPI(
        title="Sponge model server",
        version=SERVER_VERSION,
        summary="Open Inference Protocol V2; every request by its own deadline.",
        exception_handlers=EXCEPTION_HANDLERS,
        docs_url=None,
        redoc_url=None,
    )

    @app.get("/v2", tags=["server"])
    async def server_metadata() -> ServerMetadata:
        """Name, version and protocol extensions of this server."""
        return ServerMetadata(name=SERVER_NAME, version=SERVER_VERSION, extensions=list(EXTENSIONS))

    @app.get("/v2/health/live", tags=["server"], responses={503: PROBLEMS[503]})
    async def live() -> Live:
        """The process is running; 503 when its lanes were lost and do not come back, so that a restart is due."""
        if not lifecycle.alive:
            raise lifecycle.not_ready()
        return Live(live=True)

    @app.get("/v2/health/ready", tags=["server"], responses={503: PROBLEMS[503]})
    async def ready() -> Ready:
        """Requests are accepted; 503 while models load, while every lane is lost, and while the server drains."""
        _check_ready(lifecycle)
        return Ready(ready=True)

    add_extensions(app, service)
    add_repository(app, lifecycle, control or ModelControl(Loaded(lifecycle), None))

    @app.get("/v2/models/{model}", tags=["model"], responses=MODEL_PROBLEMS)
    @app.get("/v2/models/{model}/versions/{version}", tags=["model"], responses=MODEL_PROBLEMS)
    async def model_metadata(model: str, version: str | None = None) -> ModelMetadata:
        """Inputs and outputs of the model; -1 is any size. With a batch, the first dimension is a request's rows."""
        lifecycle.check_model(model, version)
        info = service.get().describe(model)
        return ModelMetadata(
            name=model,
            versions=lifecycle.versions(model),
            platform=info.platform,
            inputs=[_tensor(spec, info) for spec in info.inputs],
            outputs=[_tensor(spec, info) for spec in info.outputs],
        )

    @app.get("/v2/models/{model}/ready", tags=["model"], responses=MODEL_PROBLEMS)
    @app.get("/v2/models/{model}/versions/{version}/ready", tags=["model"], responses=MODEL_PROBLEMS)
    async def model_ready(model: str, version: str | None = None) -> ModelReady:
        """This model accepts requests."""
        lifecycle.check_model(model, version)
        _check_ready(lifecycle)
        return ModelReady(name=model, ready=True)

    serve_docs(app)
    describe(app, INFER, INFER_VERSION)
    return app


def _check_ready(lifecycle: Lifecycle) -> None:
    if not lifecycle.ready:
        raise lifecycle.not_ready()


def _tensor(spec: TensorSpec, info: ModelInfo) -> TensorMetadata:
    return TensorMetadata(name=spec.name, datatype=spec.datatype, shape=info.wire_shape(spec))
