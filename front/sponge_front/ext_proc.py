"""The picker's side of Envoy's external processing protocol: one stream for each request.

The first message holds the request's headers, and is answered with the chosen pod. A later one holds the response's
headers. A stream that ends without it belongs to a request that got no response, or that did not wait for the answer.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Container, Mapping

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sponge_core.errors import SpongeError
from sponge_core.routing.pod_table import Ending
from sponge_front.endpoint_protocol import answered_by, hosts_of, passed_on, sent_to, unavailable
from sponge_front.envoy_config import LONGEST_WAIT_S
from sponge_front.metrics import FrontMetrics
from sponge_front.picker import Pick, Picker, ending_of, is_grpc, is_inference
from sponge_front.protos import ext_proc_pb2 as pb
from sponge_front.waker import Waker

__all__ = ["PickerServer"]

log = logging.getLogger(__name__)

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"

WAIT_MARGIN_S = 1.0
"""What the proxy waits longer than a request does for its first pod."""

_Context = grpc.aio.ServicerContext[pb.ProcessingRequest, pb.ProcessingResponse]


class PickerServer:
    """Serves a picker on a socket or port; use as an async context manager."""

    def __init__(
        self,
        picker: Picker,
        metrics: FrontMetrics,
        address: str,
        waker: Waker | None = None,
        *,
        strict: bool = False,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        """
        Args:
            address: as gRPC writes it, `unix:/path` or `[::]:9002`.
            waker: lets requests wait where there is no pod; None: they do not wait.
            strict: the protocol to the letter, for gateways: every request gets a pod or an error. The proxy beside the
                picker knows the pods itself, and goes on with them where the picker knows none.
            credentials: for TLS; None: plain text.
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
        self._address = address
        self._strict = strict
        self._credentials = credentials

    async def __aenter__(self) -> PickerServer:
        """Raises SpongeError if it cannot listen on its address."""
        try:
            if self._credentials is None:
                self._server.add_insecure_port(self._address)
            else:
                self._server.add_secure_port(self._address, self._credentials)
        except RuntimeError:
            raise SpongeError(
                f"cannot listen on {self._address}; choose a shorter --directory that may be written, or as "
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
        config = pb.ProtocolConfiguration()
        try:
            async for message in messages:
                if message.HasField("request_headers"):
                    config = message.protocol_config
                    headers = _headers(message.request_headers)
                    if self._waker is not None and (waits_s := self._picker.waits_s(headers)) is not None:
                        waits_s = min(waits_s, LONGEST_WAIT_S)
                        yield _longer(waits_s + WAIT_MARGIN_S)
                        await self._waker.pod_within(waits_s)
                    hosts = hosts_of(message)
                    with self._metrics.pick.time():
                        pick = self._picker.pick(headers, hosts)
                    if pick is not None:
                        yield sent_to(pick.address, x_sponge_front=pick.sender)
                        continue
                    self._metrics.unpicked.labels("no_pod" if is_inference(headers) else "not_inference").inc()
                    yield self._unpicked(message, headers, hosts)
                    continue
                if pick is not None and message.HasField("response_headers"):
                    ending = ending_of(
                        _headers(message.response_headers), pick.address, self._answered_by(pick, message)
                    )
                yield passed_on(message, config)
        finally:
            if pick is not None:
                self._metrics.requests.labels(self._picker.ended(pick, ending)).inc()

    def _unpicked(
        self, message: pb.ProcessingRequest, headers: Mapping[bytes, bytes], hosts: Container[str] | None
    ) -> pb.ProcessingResponse:
        """The answer for a request that the rule was not asked about, or has no pod for."""
        if not self._strict:
            return passed_on(message, message.protocol_config)
        address = None if is_inference(headers) else self._picker.any_pod(headers, hosts)
        return unavailable(grpc=is_grpc(headers)) if address is None else sent_to(address)

    def _answered_by(self, pick: Pick, message: pb.ProcessingRequest) -> str:
        """The address of the pod that has answered; empty: none has.

        The proxy beside the picker says so. A gateway need not, and then it was the chosen one.
        """
        address = answered_by(message)
        if address is None:
            return pick.address if self._strict else ""
        return address


def _longer(seconds: float) -> pb.ProcessingResponse:
    """The answer takes so long."""
    nanos = round(seconds * 1e9)
    return pb.ProcessingResponse(override_message_timeout=pb.Duration(seconds=nanos // 10**9, nanos=nanos % 10**9))


def _headers(message: pb.HttpHeaders) -> dict[bytes, bytes]:
    return {each.key.encode(): each.raw_value or each.value.encode() for each in message.headers.headers}
