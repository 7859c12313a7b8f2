"""API keys at the gRPC port: what is open to everybody, and the refusal of all else without a key. As for REST."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from prometheus_client import Counter

from sponge_server.protocol.grpc_calls import refuse
from sponge_server.protocol.grpc_service import SERVICE
from sponge_server.protocol.problems import ProblemError
from sponge_server.security.api_keys import ApiKeys

__all__ = ["KeyInterceptor"]

OPEN_CALLS = re.compile(
    rf"/grpc\.health\.v1\.Health/.*|/{re.escape(SERVICE)}/(ServerLive|ServerReady|ModelReady|RepositoryModel(Unl|L)oad)"
)

CARRIERS = ("authorization", "x-api-key")


class KeyInterceptor(grpc.aio.ServerInterceptor):
    """Stands before every call of a gRPC server, whatever its service."""

    def __init__(self, keys: ApiKeys, problems: Counter) -> None:
        """`problems` counts refused calls by `status`."""
        self._keys = keys
        self._problems = problems

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of the call, or one that refuses it."""
        if OPEN_CALLS.fullmatch(handler_call_details.method) is None:
            headers = {
                name.encode(): value if isinstance(value, bytes) else value.encode()
                for name, value in handler_call_details.invocation_metadata
                if name in CARRIERS
            }
            try:
                self._keys.holder(headers)
            except ProblemError as problem:
                return self._refusal(problem)
        return await continuation(handler_call_details)

    def _refusal(self, problem: ProblemError) -> grpc.RpcMethodHandler[Any, Any]:
        async def end(_: Any, context: Any) -> None:
            self._problems.labels(str(problem.status)).inc()
            await refuse(context, problem)

        # A stream, so that it runs before any message has arrived.
        return grpc.stream_unary_rpc_method_handler(end)
