"""Calls of the gRPC port besides inference: one message in, one out, and errors as gRPC tells them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from prometheus_client import Counter

from sponge_server.protocol.catch_all import BUG, BUG_EVENT
from sponge_server.protocol.content_coding import inflated
from sponge_server.protocol.problems import ELSEWHERE, ProblemError

__all__ = ["Context", "Metadata", "parsed", "refuse", "unary", "unary_with_metadata"]

log = logging.getLogger(__name__)

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""The gRPC status for each HTTP status of a problem; a missing one is a bug and maps to INTERNAL."""

MOST_QUESTION = 64 << 10
"""Bytes of a message other than a request for inference, once it is decompressed."""

Context = grpc.aio.ServicerContext[bytes, Message]
Metadata = dict[str, str | bytes]
"""What headers are over HTTP: lower-case names and values."""

M = TypeVar("M", bound=Message)


def unary(errors: Counter, kind: type[M], answer: Callable[[M], Message]) -> grpc.RpcMethodHandler[bytes, Message]:
    """The handler of a call. `answer` may raise ProblemError; `errors` counts bugs by port."""

    async def at_once(message: M, _: Metadata) -> Message:
        return answer(message)

    return unary_with_metadata(errors, kind, at_once)


def unary_with_metadata(
    errors: Counter, kind: type[M], answer: Callable[[M, Metadata], Awaitable[Message]]
) -> grpc.RpcMethodHandler[bytes, Message]:
    """As `unary`, for an answer that takes time, or depends on the call's metadata."""

    async def handle(raw: bytes, context: Context) -> Message:
        try:
            message = parsed(kind, inflated(raw, MOST_QUESTION))
            return await answer(message, dict(context.invocation_metadata() or ()))
        except ProblemError as problem:
            await refuse(context, problem)
        except Exception:
            log.exception(BUG_EVENT)
            errors.labels("grpc").inc()
            await refuse(context, BUG)

    handler: Callable[[bytes, Context], Awaitable[Message]] = handle
    return grpc.unary_unary_rpc_method_handler(handler, response_serializer=kind.SerializeToString)


def parsed(kind: type[M], raw: bytes) -> M:
    """The message. Raises ProblemError 400."""
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise ProblemError(400, "invalid-request", f"not a {kind.DESCRIPTOR.name}: {error}") from None


async def refuse(context: Context, problem: ProblemError) -> NoReturn:
    """Ends the call with a problem's status; one that is worth a retry says when, as gRPC's retry policies read it."""
    problem.forget()
    trailing = [("sponge-problem", problem.slug)]
    trailing += [
        ("grpc-retry-pushback-ms", str(int(value) * 1000)) for name, value in problem.headers if name == b"retry-after"
    ]
    if ELSEWHERE in problem.headers:
        trailing.append((ELSEWHERE[0].decode(), ELSEWHERE[1].decode()))
    code = CODES.get(problem.status, grpc.StatusCode.INTERNAL)
    if problem.slug == "no-room":
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
    try:
        await context.abort(code, problem.detail, tuple(trailing))
    except grpc.aio.AbortError as aborted:
        # The library keeps it with the call, which its frames hold in turn: a cycle for each refusal.
        asyncio.get_running_loop().call_soon(aborted.with_traceback, None)
        raise
