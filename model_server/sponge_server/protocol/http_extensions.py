"""Routes of Triton's extensions on the data port: configuration and statistics of the models."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from sponge_server.inference_service import InferenceService
from sponge_server.lifecycle import Loaded
from sponge_server.protocol.extensions import config_document, statistics_document
from sponge_server.protocol.openapi import PROBLEMS

__all__ = ["add_extensions"]

MODEL_PROBLEMS: dict[int | str, dict[str, Any]] = {status: PROBLEMS[status] for status in (404, 503)}


class Statistics(BaseModel):
    model_stats: list[dict[str, Any]]


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


def _statistics(service: InferenceService, name: str | None, version: str | None) -> Statistics:
    found = service.statistics(name, version)
    return Statistics(model_stats=[statistics_document(model, counts) for model, counts in found])
