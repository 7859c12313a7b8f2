"""Routes of the model repository on the data port: which versions there are, and loading and unloading them."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI, Request
from pydantic import BaseModel

from sponge_server.lifecycle import Lifecycle
from sponge_server.protocol.extensions import index_document
from sponge_server.protocol.model_control import ModelControl, change_of
from sponge_server.protocol.openapi import CONTROL_PROBLEMS, PROBLEMS
from sponge_server.protocol.problem_response import read_small
from sponge_server.protocol.problems import ProblemError

__all__ = ["add_repository"]

MOST_BYTES = 64 << 10
"""Bytes of a request."""


UNLOAD_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: CONTROL_PROBLEMS[status] for status in (401, 403, 404, 409, 503)
}


class IndexEntry(BaseModel):
    name: str
    version: str
    state: str
    reason: str


class LoadedVersion(BaseModel):
    name: str
    version: str


class Unloaded(BaseModel):
    name: str


def add_repository(app: FastAPI, lifecycle: Lifecycle, control: ModelControl) -> None:
    """Adds the routes."""

    @app.post("/v2/repository/index", tags=["repository"], responses={413: PROBLEMS[413]})
    async def index(request: Request) -> list[IndexEntry]:
        """The versions of the models and their states; with `{"ready": true}` those that take requests."""
        wanted = await _small_document(request)
        return [IndexEntry(**entry) for entry in index_document(lifecycle, wanted.get("ready") is True)]

    @app.post("/v2/repository/models/{model}/load", tags=["repository"], responses=CONTROL_PROBLEMS)
    async def load(model: str, request: Request) -> LoadedVersion:
        """Loads another version of the model beside the one that serves; it serves when this is answered.

        The body may have `{"parameters": {"source": SOURCE}}`; without it, the same source is loaded anew.
        """
        repository = control.enter(request.headers.get("authorization", ""))
        version = await repository.load(model, change_of(model, _parameters(await _small_document(request))))
        return LoadedVersion(name=model, version=version)

    @app.post("/v2/repository/models/{model}/unload", tags=["repository"], responses=UNLOAD_PROBLEMS)
    async def unload(model: str, request: Request) -> Unloaded:
        """Takes the model out of service; requests that are under way are still answered."""
        control.enter(request.headers.get("authorization", "")).unload(model)
        return Unloaded(name=model)


def _parameters(document: dict[str, Any]) -> dict[str, object]:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise ProblemError(400, "invalid-request", "parameters must be a JSON object")
    return parameters


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
