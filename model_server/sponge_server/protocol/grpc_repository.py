"""Calls of the gRPC port that load and unload models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import Message
from prometheus_client import Counter

from sponge_server.protocol.grpc_calls import Metadata, unary_with_metadata
from sponge_server.protocol.model_control import ModelControl, change_of
from sponge_server.protos import inference_pb2 as pb

__all__ = ["repository_calls"]


def repository_calls(control: ModelControl, errors: Counter) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """The calls, by name. `errors` counts bugs by port."""

    async def load(request: pb.RepositoryModelLoadRequest, metadata: Metadata) -> Message:
        repository = control.enter(_authorization(metadata))
        await repository.load(request.model_name, change_of(request.model_name, _values(request.parameters)))
        return pb.RepositoryModelLoadResponse()

    async def unload(request: pb.RepositoryModelUnloadRequest, metadata: Metadata) -> Message:
        control.enter(_authorization(metadata)).unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    return {
        "RepositoryModelLoad": unary_with_metadata(errors, pb.RepositoryModelLoadRequest, load),
        "RepositoryModelUnload": unary_with_metadata(errors, pb.RepositoryModelUnloadRequest, unload),
    }


def _authorization(metadata: Metadata) -> str:
    value = metadata.get("authorization", "")
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _values(parameters: Mapping[str, pb.ModelRepositoryParameter]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        found[name] = None if choice is None else getattr(parameter, choice)
    return found
