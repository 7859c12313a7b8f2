"""The calls of `inference.GRPCInferenceService`, each a thin way to the data plane that REST uses too.

Requests come in as bytes, so that one that cannot be read is answered like any other mistake. `ModelInfer` is taken as
a stream on the wire: its handler then runs when the headers are in, not when the message is, so that the deadline
counts from there and a request that is lost already is refused unread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from sponge_server.dataplane import EXTENSIONS, MODEL_VERSION, SERVER_NAME, SERVER_VERSION, problem_of
from sponge_server.deadlines import Due
from sponge_server.engine.engine import Job
from sponge_server.intake import Body, ClientLeftError, Intake
from sponge_server.model_handle import ServedModel
from sponge_server.protocol.grpc_codec import decode, encode, typed_bytes
from sponge_server.protocol.oip import InferRequest, OipError
from sponge_server.protocol.problems import ProblemError
from sponge_server.protocol.rest import server_timing
from sponge_server.protos import inference_pb2 as pb
from sponge_server.results import Answer, RequestError
from sponge_server.uploads import TRUSTED_AFTER_S, Upload
from sponge_server.workers.interface import TensorSpec

__all__ = ["SERVICE", "inference_handler"]

SERVICE = "inference.GRPCInferenceService"

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""The gRPC status for each HTTP status of a problem; one that is missing would be a bug, and is INTERNAL."""

CANCEL_TOLERANCE_S = 0.02
"""A call that ends this close to its deadline has timed out: nobody changed his mind."""

Context = grpc.aio.ServicerContext[bytes, Message]
M = TypeVar("M", bound=Message)


def inference_handler(intake: Intake) -> grpc.GenericRpcHandler:
    """All calls of the service, for a gRPC server."""
    service = _Service(intake)
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "ServerLive": _unary(pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=True)),
            "ServerReady": _unary(pb.ServerReadyRequest, service.server_ready),
            "ServerMetadata": _unary(pb.ServerMetadataRequest, service.server_metadata),
            "ModelReady": _unary(pb.ModelReadyRequest, service.model_ready),
            "ModelMetadata": _unary(pb.ModelMetadataRequest, service.model_metadata),
            "ModelInfer": grpc.stream_unary_rpc_method_handler(
                service.model_infer, response_serializer=pb.ModelInferResponse.SerializeToString
            ),
        },
    )


class _Service:
    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._plane = intake.plane

    def server_ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._plane.ready)

    def server_metadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=SERVER_VERSION, extensions=EXTENSIONS)

    def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        self._plane.check_model(request.name, request.version or None)
        return pb.ModelReadyResponse(ready=self._plane.ready)

    def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        info = self._plane.described(request.name, request.version or None).info
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[MODEL_VERSION],
            platform=info.platform,
            inputs=[_tensor(spec) for spec in info.inputs],
            outputs=[_tensor(spec) for spec in info.outputs],
        )

    async def model_infer(self, messages: AsyncIterator[bytes], context: Context) -> pb.ModelInferResponse:
        arrived = self._intake.clock()
        body = Body()
        try:
            model, request, answer = await self._infer(messages, context, arrived, body)
            response = self._plane.encode(model, request, answer, encode)
        except ClientLeftError:
            await context.abort(grpc.StatusCode.CANCELLED, "the client left")
        except ProblemError as problem:
            self._intake.metrics.problems.labels(str(problem.status)).inc()
            await _refuse(context, problem)
        finally:
            self._intake.release(body)
        context.set_trailing_metadata((("server-timing", server_timing(answer.timing)),))
        return response

    async def _infer(
        self, messages: AsyncIterator[bytes], context: Context, arrived: float, body: Body
    ) -> tuple[ServedModel, InferRequest, Answer]:
        intake = self._intake
        headers, call_timeout_s = _headers(context), context.time_remaining()
        # The model is named in the message, which is yet to come.
        stand_in = self._plane.stand_in()
        due = intake.due(headers, arrived, stand_in, call_timeout_s)
        intake.admit(stand_in, due, arrived)
        async with intake.receiving(stand_in, due, body) as upload:
            # How much of it has come is not told: room for one row is taken before.
            expected = min(stand_in.info.least_row_bytes, intake.max_body)
            intake.hold(expected, body)
            raw = await self._read(messages, context, upload)
            intake.hold(len(raw) - expected, body)
        message = _parsed(pb.ModelInferRequest, raw)
        model = self._plane.described(message.model_name, message.model_version or None)
        if model is not stand_in:
            due = intake.due(headers, arrived, model, call_timeout_s)
        intake.check_text_size(typed_bytes(message), "typed contents")
        try:
            request = decode(message)
        except OipError as error:
            raise ProblemError(400, "invalid-request", str(error)) from None
        due = intake.with_body_timeout(due, request)
        return model, request, await self._answer(self._plane.submit(model, request, due), due)

    async def _read(self, messages: AsyncIterator[bytes], context: Context, upload: Upload) -> bytes:
        # How much of a message has come is not told; that one is coming is, once it is not here at once.
        soon = asyncio.get_running_loop().call_later(TRUSTED_AFTER_S, self._intake.still_coming)
        try:
            async for raw in messages:
                upload.received = len(raw)
                return raw
        finally:
            soon.cancel()
        if context.done():
            raise ClientLeftError
        raise ProblemError(400, "invalid-request", "the call carries no message: send one ModelInferRequest")

    async def _answer(self, job: Job, due: Due) -> Answer:
        try:
            # Shielded, for the engine alone ends a job.
            return await asyncio.shield(job.future)
        except RequestError as error:
            raise problem_of(error) from None
        except asyncio.CancelledError:
            # Both a client that leaves and a deadline that passes end the call; the second is for the engine to count.
            if self._intake.clock() < due.deadline - CANCEL_TOLERANCE_S:
                self._plane.engine.cancel(job)
            raise


def _unary(kind: type[M], answer: Callable[[M], Message]) -> grpc.RpcMethodHandler[bytes, Message]:
    async def handle(raw: bytes, context: Context) -> Message:
        try:
            return answer(_parsed(kind, raw))
        except ProblemError as problem:
            await _refuse(context, problem)

    handler: Callable[[bytes, Context], Awaitable[Message]] = handle
    return grpc.unary_unary_rpc_method_handler(handler, response_serializer=kind.SerializeToString)


def _parsed(kind: type[M], raw: bytes) -> M:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise ProblemError(400, "invalid-request", f"not a {kind.DESCRIPTOR.name}: {error}") from None


async def _refuse(context: Context, problem: ProblemError) -> NoReturn:
    """Ends the call with a problem's status; one that is worth a retry says when, as gRPC's retry policies read it."""
    trailing = [("sponge-problem", problem.slug)]
    trailing += [
        ("grpc-retry-pushback-ms", str(int(value) * 1000)) for name, value in problem.headers if name == b"retry-after"
    ]
    code = CODES.get(problem.status, grpc.StatusCode.INTERNAL)
    if problem.slug == "no-room":
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
    await context.abort(code, problem.detail, tuple(trailing))


def _headers(context: Context) -> dict[bytes, bytes]:
    return {
        name.encode(): value if isinstance(value, bytes) else value.encode()
        for name, value in context.invocation_metadata() or ()
    }


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=[-1, *spec.shape])
