"""gRPC adapter: the calls of `inference.GRPCInferenceService`.

It reads the messages and writes the responses; the inference service does everything in between, as for REST.

Requests come in as bytes, so that an unreadable one is answered like any other error. `ModelInfer` is a stream on the
wire: its handler then runs when the headers are in, not when the message is. So the deadline counts from the headers,
and a request whose deadline cannot be met is refused unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, ClassVar

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from sponge_server.bounds import Bounds
from sponge_server.call import ClientLeftError
from sponge_server.clients import Peer
from sponge_server.inference_service import InferenceService
from sponge_server.lifecycle import Loaded
from sponge_server.memory_account import Lease
from sponge_server.observability.metrics import Metrics
from sponge_server.protocol.catch_all import BUG, BUG_EVENT
from sponge_server.protocol.content_coding import Inflater, is_compressed
from sponge_server.protocol.extensions import EXTENSIONS, config_document, index_document, statistics_document
from sponge_server.protocol.grpc_calls import Context, parsed, refuse, unary
from sponge_server.protocol.grpc_codec import decode, encode, typed_bytes
from sponge_server.protocol.grpc_repository import repository_calls
from sponge_server.protocol.message_scan import LONG_MESSAGE_BYTES, check_message
from sponge_server.protocol.model_control import ModelControl
from sponge_server.protocol.oip import SERVER_NAME, SERVER_VERSION, InferRequest, OipError
from sponge_server.protocol.problems import ProblemError
from sponge_server.protocol.rest import server_timing
from sponge_server.protos import inference_pb2 as pb
from sponge_server.workers.interface import ModelInfo, Tensor, TensorSpec

__all__ = ["SERVICE", "inference_handler"]

log = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"


def inference_handler(
    service: Loaded[InferenceService], metrics: Metrics, control: ModelControl | None = None
) -> grpc.GenericRpcHandler:
    """All calls of the service, for a gRPC server. `control`: for loading and unloading models; None: that is off."""
    calls = _Service(service, metrics)
    errors = metrics.internal_errors
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "ServerLive": unary(errors, pb.ServerLiveRequest, calls.server_live),
            "ServerReady": unary(errors, pb.ServerReadyRequest, calls.server_ready),
            "ServerMetadata": unary(errors, pb.ServerMetadataRequest, calls.server_metadata),
            "ModelReady": unary(errors, pb.ModelReadyRequest, calls.model_ready),
            "ModelMetadata": unary(errors, pb.ModelMetadataRequest, calls.model_metadata),
            "ModelConfig": unary(errors, pb.ModelConfigRequest, calls.model_config),
            "ModelStatistics": unary(errors, pb.ModelStatisticsRequest, calls.model_statistics),
            "RepositoryIndex": unary(errors, pb.RepositoryIndexRequest, calls.repository_index),
            **repository_calls(control or ModelControl(Loaded(service.lifecycle), None), errors),
            "ModelInfer": grpc.stream_unary_rpc_method_handler(
                calls.model_infer, response_serializer=pb.ModelInferResponse.SerializeToString
            ),
        },
    )


class _Service:
    def __init__(self, service: Loaded[InferenceService], metrics: Metrics) -> None:
        self._service = service
        self._lifecycle = service.lifecycle
        self._problems = metrics.problems
        self._errors = metrics.internal_errors

    def server_live(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=self._lifecycle.alive)

    def server_ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._lifecycle.ready)

    def server_metadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=SERVER_VERSION, extensions=EXTENSIONS)

    def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        state = self._lifecycle.states.get(request.name)
        if state is not None and state.serving is None:
            return pb.ModelReadyResponse(ready=False)
        self._lifecycle.check_model(request.name, request.version or None)
        return pb.ModelReadyResponse(ready=self._lifecycle.ready)

    def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        self._lifecycle.check_model(request.name, request.version or None)
        info = self._service.get().describe(request.name)
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=self._lifecycle.versions(request.name),
            platform=info.platform,
            inputs=[_tensor(spec, info) for spec in info.inputs],
            outputs=[_tensor(spec, info) for spec in info.outputs],
        )

    def model_config(self, request: pb.ModelConfigRequest) -> Message:
        self._lifecycle.check_model(request.name, request.version or None)
        document = config_document(self._service.get().describe(request.name))
        return ParseDict({"config": document}, pb.ModelConfigResponse())

    def model_statistics(self, request: pb.ModelStatisticsRequest) -> Message:
        if request.name:
            self._lifecycle.check_model(request.name, request.version or None)
        found = self._service.get().statistics(request.name or None, request.version or None)
        documents = [statistics_document(model, counts) for model, counts in found]
        return ParseDict({"model_stats": documents}, pb.ModelStatisticsResponse())

    def repository_index(self, request: pb.RepositoryIndexRequest) -> Message:
        return ParseDict({"models": index_document(self._lifecycle, request.ready)}, pb.RepositoryIndexResponse())

    async def model_infer(self, messages: AsyncIterator[bytes], context: Context) -> pb.ModelInferResponse:
        try:
            service = self._service.get()
            lease = service.account.open()
            # The task ends once the answer has been sent, or will not be. The library's own callback would keep the
            # call in a cycle, until the garbage collector comes.
            task = asyncio.current_task()
            assert task is not None
            task.add_done_callback(lambda _: lease.close())
            response, timing = await service.infer(_GrpcCall(messages, context, lease))
        except ClientLeftError:
            await context.abort(grpc.StatusCode.CANCELLED, "the client left")
        except ProblemError as problem:
            self._problems.labels(str(problem.status)).inc()
            await refuse(context, problem)
        except Exception:
            log.exception(BUG_EVENT)
            self._errors.labels("grpc").inc()
            self._problems.labels(str(BUG.status)).inc()
            await refuse(context, BUG)
        context.set_trailing_metadata((("server-timing", server_timing(timing)),))
        return response


class _GrpcCall:
    """Implements `inference_service.Call`. The message names the model."""

    text_kind: ClassVar[str] = "typed contents"
    in_pieces: ClassVar[bool] = False
    long_answer_bytes: ClassVar[int] = 256 << 10

    def __init__(self, messages: AsyncIterator[bytes], context: Context, lease: Lease) -> None:
        self.lease = lease
        self.headers = {
            name.encode(): value if isinstance(value, bytes) else value.encode()
            for name, value in context.invocation_metadata() or ()
        }
        self.timeout_s = context.time_remaining()
        self.model: str | None = None
        self.version: str | None = None
        self._messages = messages
        self._context = context
        self._message = pb.ModelInferRequest()
        self._inflater: Inflater | None = None

    @property
    def peer(self) -> Peer:
        connection = self._context.peer()  # such as ipv4:10.0.0.1:40000
        return Peer(connection.rpartition(":")[0], connection)

    def body_length(self) -> None:
        """A message does not announce its length."""

    async def receive(self) -> tuple[bytes, int, bool]:
        if self._inflater is not None:
            return await self._inflater.receive()
        # Closed, because the library's generator keeps its last message, and the garbage collector finds it late.
        stream: Any = aiter(self._messages)
        async with contextlib.aclosing(stream):
            async for raw in stream:
                if not is_compressed(raw):
                    return raw, len(raw), False
                self._inflater = Inflater(_once(raw))
                return await self._inflater.receive()
        if self._context.done():
            raise ClientLeftError
        raise ProblemError(400, "invalid-request", "the call carries no message: send one ModelInferRequest")

    def parse(self, body: bytes | bytearray, bounds: Bounds) -> int:
        raw = bytes(body)
        if len(raw) > LONG_MESSAGE_BYTES:
            try:
                check_message(raw, bounds)
            except OipError as error:
                raise ProblemError(400, "invalid-request", str(error)) from None
        self._message = parsed(pb.ModelInferRequest, raw)
        self.model, self.version = self._message.model_name, self._message.model_version or None
        return typed_bytes(self._message)

    def decode(self, bounds: Bounds) -> InferRequest:
        return decode(self._message, bounds)

    def watch(self, on_left: Callable[[], None]) -> Callable[[], object]:  # noqa: ARG002
        """The library cancels the handler when the client leaves."""
        return _nothing

    def encode(
        self,
        model: str,
        version: str,
        request: InferRequest,
        outputs: Sequence[Tensor],
        labels: Sequence[str] | None,
        answered_by: tuple[str, float] | None,
    ) -> pb.ModelInferResponse:
        return encode(model, version, request, outputs, labels, answered_by)


def _nothing() -> None:
    pass


def _once(raw: bytes) -> Callable[[], Awaitable[tuple[bytes, bool]]]:
    async def pull() -> tuple[bytes, bool]:
        return raw, False

    return pull


def _tensor(spec: TensorSpec, info: ModelInfo) -> pb.ModelMetadataResponse.TensorMetadata:
    shape = info.wire_shape(spec)
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=shape)
