"""Routes of Triton's extensions on the data port: configuration, statistics and index of the models."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI, Request
from pydantic import BaseModel

from sponge_server.inference_service import InferenceService
from sponge_server.lifecycle import Loaded
from sponge_server.protocol.extensions import config_document, index_document, statistics_document
from sponge_server.protocol.openapi import PROBLEMS
from sponge_server.protocol.problem_response import read_small
from sponge_server.protocol.problems import ProblemError

__all__ = ["add_extensions"]

MOST_BYTES = 64 << 10
"""Bytes of a request to the repository index."""

MODEL_PROBLEMS: dict[int | str, dict[str, Any]] = {status: PROBLEMS[status] for status in (404, 503)}


class Statistics(BaseModel):
    model_stats: list[dict[str, Any]]


class IndexEntry(BaseModel):
    name: str
    version: str
    state: str
    reason: str


def add_extensions(app: FastAPI, service: Loaded[InferenceService]) -> None:
    """Adds the routes. Call it before a route matches any model name: `stats` is none."""
    lifecycle = service.lifecycle

    @app.get("/v2/models/stats", tags=["extensions"], responses={503: PROBLEMS[503]})
    async def all_statistics() -> Statistics:
        """Counts and times of every model since the start."""
        return _statistics(service.get(), None, None)

    @app.get("/v2/models/{model}/stats", tags=["extensions"], responses=MODEL_PROBLEMS)
    @app.get("/v2/models/{model}/versions/{version}/stats", tags=["extensions"], responses=MODEL_PROBLEMS)
    async def statistics(model: str, version: str | None = None) -> Statistics:
        """Counts and times of this model since the start: queue, lanes, and batches by size."""
        lifecycle.check_model(model, version)
        return _statistics(service.get(), model, version)

    @app.get("/v2/models/{model}/config", tags=["extensions"], responses=MODEL_PROBLEMS)
    @app.get("/v2/models/{model}/versions/{version}/config", tags=["extensions"], responses=MODEL_PROBLEMS)
    async def config(model: str, version: str | None = None) -> dict[str, Any]:
        """Inputs, outputs and largest batch of the model, as Triton's model configuration."""
        lifecycle.check_model(model, version)
        return config_document(service.get().describe(model))

    @app.post("/v2/repository/index", tags=["extensions"], responses={413: PROBLEMS[413]})
    async def index(request: Request) -> list[IndexEntry]:
        """The models of this server; with `{"ready": true}` those that are ready."""
        wanted = await _small_document(request)
        return [IndexEntry(**entry) for entry in index_document(lifecycle, wanted.get("ready") is True)]


def _statistics(service: InferenceService, name: str | None, version: str | None) -> Statistics:
    found = service.statistics(name, version)
    return Statistics(model_stats=[statistics_document(model, counts) for model, counts in found])


async def _small_document(request: Request) -> dict[str, Any]:
    """The JSON object in the body; an empty one if there is none. Raises ProblemError."""
    body = await read_small(request, MOST_BYTES, "body")
    try:
        document = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise ProblemError(400, "invalid-request", f"the body cannot be read as JSON: {error}") from None
    if not isinstance(document, dict):
        raise ProblemError(400, "invalid-request", "the body must be a JSON object")
    return document
