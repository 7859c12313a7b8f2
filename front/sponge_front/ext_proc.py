"""The picker's side of Envoy's external processing protocol: one stream for each request.

The first message holds the request's headers, and is answered with the chosen pod, in the header and in the metadata of
the endpoint picker protocol of the Gateway API Inference Extension. The second one holds the response's headers. A
stream that ends without it belongs to a request that got no response, or that did not wait for the answer.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sponge_core.errors import SpongeError
from sponge_core.routing.pod_table import Ending
from sponge_front.envoy_config import DESTINATION, LONGEST_WAIT_S, METADATA, UPSTREAM_ADDRESS
from sponge_front.metrics import FrontMetrics
from sponge_front.picker import Pick, Picker, ending_of
from sponge_front.protos import ext_proc_pb2 as pb
from sponge_front.waker import Waker

__all__ = ["PickerServer"]

log = logging.getLogger(__name__)

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
FRONT_HEADER = "x-sponge-front"

WAIT_MARGIN_S = 1.0
"""What the proxy waits longer than a request does for its first pod."""

_REQUEST_AS_IS = pb.ProcessingResponse(request_headers=pb.HeadersResponse())
_RESPONSE_AS_IS = pb.ProcessingResponse(response_headers=pb.HeadersResponse())

_OVERWRITE = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD

_Context = grpc.aio.ServicerContext[pb.ProcessingRequest, pb.ProcessingResponse]


class PickerServer:
    """Serves a picker on sockets and ports; use as an async context manager."""

    def __init__(
        self, picker: Picker, metrics: FrontMetrics, addresses: Iterable[str], waker: Waker | None = None
    ) -> None:
        """
        Args:
            addresses: as gRPC writes them, `unix:/path` or `[::]:9002`.
            waker: lets requests wait where there is no pod; None: they do not wait.
        """
        self._picker = picker
        self._waker = waker
        self._metrics = metrics
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        handler = grpc.stream_stream_rpc_method_handler(
            self._process,
            request_deserializer=pb.ProcessingRequest.FromString,
            response_serializer=pb.ProcessingResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Process": handler}),))
        health_servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, self._server)
        self._health = health_servicer
        self._addresses = tuple(addresses)

    async def __aenter__(self) -> PickerServer:
        """Raises SpongeError if it cannot listen on an address."""
        for address in self._addresses:
            try:
                self._server.add_insecure_port(address)
            except RuntimeError:
                raise SpongeError(
                    f"cannot listen on {address}; choose a shorter --directory that may be written, or as "
                    "--picker-address a free port, such as [::]:9002"
                ) from None
        await self._server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(grace=1.0)

    async def _process(
        self, messages: AsyncIterator[pb.ProcessingRequest], _: _Context
    ) -> AsyncIterator[pb.ProcessingResponse]:
        pick: Pick | None = None
        ending: Ending = "cancelled"
        try:
            async for message in messages:
                if message.HasField("request_headers"):
                    headers = _headers(message.request_headers)
                    if self._waker is not None and (waits_s := self._picker.waits_s(headers)) is not None:
                        waits_s = min(waits_s, LONGEST_WAIT_S)
                        yield _longer(waits_s + WAIT_MARGIN_S)
                        await self._waker.pod_within(waits_s)
                    with self._metrics.pick.time():
                        pick = self._picker.pick(headers)
                    yield _REQUEST_AS_IS if pick is None else _picked(pick)
                else:
                    if pick is not None:
                        ending = ending_of(_headers(message.response_headers), _answered_by(message) == pick.address)
                    yield _RESPONSE_AS_IS
        finally:
            if pick is not None:
                self._metrics.requests.labels(self._picker.ended(pick, ending)).inc()


def _longer(seconds: float) -> pb.ProcessingResponse:
    """The answer takes so long."""
    nanos = round(seconds * 1e9)
    return pb.ProcessingResponse(override_message_timeout=pb.Duration(seconds=nanos // 10**9, nanos=nanos % 10**9))


def _headers(message: pb.HttpHeaders) -> dict[bytes, bytes]:
    return {each.key.encode(): each.raw_value or each.value.encode() for each in message.headers.headers}


def _answered_by(message: pb.ProcessingRequest) -> str:
    """The address of the pod that the response is from; empty: it is Envoy's own."""
    return next(
        (
            struct.fields[UPSTREAM_ADDRESS].string_value
            for struct in message.attributes.values()
            if UPSTREAM_ADDRESS in struct.fields
        ),
        "",
    )


def _picked(pick: Pick) -> pb.ProcessingResponse:
    headers = {DESTINATION: pick.address, FRONT_HEADER: pick.sender}
    mutation = pb.HeaderMutation(
        set_headers=[
            pb.HeaderValueOption(header=pb.HeaderValue(key=name, raw_value=value.encode()), append_action=_OVERWRITE)
            for name, value in headers.items()
        ]
    )
    destination = pb.Struct(fields={DESTINATION: pb.Value(string_value=pick.address)})
    return pb.ProcessingResponse(
        request_headers=pb.HeadersResponse(response=pb.CommonResponse(header_mutation=mutation)),
        dynamic_metadata=pb.Struct(fields={METADATA: pb.Value(struct_value=destination)}),
    )
