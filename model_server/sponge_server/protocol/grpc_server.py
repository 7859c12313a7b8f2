"""The gRPC port: set-up of the gRPC library, start and stop, health and reflection.

It runs on the same event loop as the HTTP ports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sponge_core.addresses import authority
from sponge_core.errors import SpongeError
from sponge_server.protocol.grpc_service import SERVICE
from sponge_server.protocol.http_connection import CLOSE_GRACE_S
from sponge_server.protocol.http_server import listen
from sponge_server.protos import inference_pb2
from sponge_server.security.certificates import Certificates
from sponge_system.network import EVERY_INTERFACE, every_interface

__all__ = ["GrpcServer"]

OPTION = "--grpc-port"

HANDSHAKE_S = 20
"""Seconds for a new connection to start HTTP/2."""

IDLE_S = 300
"""Seconds after which a connection without calls is closed; a channel opens another one when it needs it."""

PING_INTERVAL_MS = 100
"""Clients may send keep-alive pings so often. Below the library's own five minutes it would end their connections."""

MAX_STREAMS = 1024
"""Open calls on a connection. The client's library queues more than these, without regard to their deadlines."""


MOST_HEAD = 64 << 10
"""Bytes of a call's metadata, as many as of the headers of an HTTP request."""

LOADING_BYTES = 64 << 10
"""Largest message before any model is loaded: nobody can ask for inference yet."""


UNASKED_BYTES = 64 << 10
"""Bytes of a message that may arrive before the service asks for it."""


class _Health(health.aio.HealthServicer):  # type: ignore[misc]
    """The library's health service, with watchers that do not keep the server from ending."""

    def __init__(self) -> None:
        super().__init__()
        self._ending = asyncio.Event()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - the protocol's name
        """Sends every change until the client leaves or the server ends."""
        watch = asyncio.ensure_future(super().Watch(request, context))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            done, _ = await asyncio.wait((watch, ending), return_when=asyncio.FIRST_COMPLETED)
            if watch in done:
                watch.result()
        finally:
            watch.cancel()
            ending.cancel()

    def end(self) -> None:
        """Ends every watch."""
        self._ending.set()


class GrpcServer:
    """The gRPC form of the protocol at one address."""

    def __init__(
        self,
        handler: grpc.GenericRpcHandler,
        host: str,
        port: int,
        *,
        max_connections: int,
        certificates: Certificates | None = None,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    ) -> None:
        """Binds the port; port 0 takes a free one. Raises SpongeError when the address is not available.

        Args:
            handler: the calls of the inference service, see `grpc_service.inference_handler`.
            certificates: for TLS; without them, the port speaks plain text.
            interceptors: stand before every call.
        """
        if port:
            # The library says only that it failed; this call says why, and finds other servers on the port.
            listen(host, port, OPTION).close()
        self._handler = handler
        self._host = host
        self._max_connections = max_connections
        self._certificates = certificates
        self._interceptors = interceptors
        self._health = _Health()
        self._telling: set[asyncio.Task[None]] = set()
        self._server, self.port = self._bind(port, LOADING_BYTES)

    def _bind(self, port: int, message_bytes: int) -> tuple[grpc.aio.Server, int]:
        server = grpc.aio.server(
            interceptors=self._interceptors,
            options=(
                # For the moment in which one server takes over from another, see `accept_messages`.
                ("grpc.so_reuseport", 1),
                ("grpc.max_allowed_incoming_connections", self._max_connections),
                ("grpc.max_concurrent_streams", MAX_STREAMS),
                ("grpc.max_metadata_size", MOST_HEAD),
                ("grpc.absolute_max_metadata_size", MOST_HEAD),
                ("grpc.max_receive_message_length", message_bytes),
                ("grpc.max_send_message_length", -1),
                # Else the library lets megabytes of each message arrive that nobody has asked for.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", UNASKED_BYTES),
                # The library would expand a message to any size before it is counted; the service does it in steps.
                ("grpc.per_message_decompression", 0),
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_S * 1000),
                ("grpc.max_connection_idle_ms", IDLE_S * 1000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MS),
            ),
        )
        server.add_generic_rpc_handlers((self._handler,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server, _pool())
        address = authority(every_interface() if self._host == EVERY_INTERFACE else self._host, port)
        try:
            if self._certificates is None:
                return server, server.add_insecure_port(address)
            return server, server.add_secure_port(address, _credentials(self._certificates))
        except RuntimeError:
            raise SpongeError(f"cannot listen on {address}; choose another port with {OPTION}") from None

    async def start(self) -> None:
        """Accepts calls from now on; health says that the models are not ready."""
        await self.set_ready(False)
        await self._server.start()

    async def accept_messages(self, most_bytes: int) -> None:
        """Accepts messages of up to `most_bytes`, which is known only once the models are loaded.

        The library fixes this number when a server is made, so another one takes over the port; clients that are
        connected by then connect again.
        """
        former = self._server
        self._server, _ = self._bind(self.port, most_bytes)
        await self._server.start()
        await former.stop(None)

    async def set_ready(self, ready: bool) -> None:
        """Sets the answer of the health service, and tells its watchers at once."""
        state = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, state)

    def tell_ready(self, ready: bool) -> None:
        """As `set_ready`, soon; several calls take effect in their order."""
        task = asyncio.get_running_loop().create_task(self.set_ready(ready))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def stop(self, grace_s: float = CLOSE_GRACE_S) -> None:
        """Accepts no more calls, lets the open ones finish for at most `grace_s` seconds, and ends.

        A call that arrives while its connection ends may be cancelled rather than refused. So call this only when every
        accepted request is answered; until then the service itself refuses.
        """
        self._health.end()
        await self._server.stop(grace_s)


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Credentials that follow the files: the library asks at each handshake whether there is another certificate."""

    def configuration() -> Any:
        pem = certificates.pem
        return pem, grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.client_ca)

    given, first = configuration()

    def fetch() -> Any:
        nonlocal given
        if certificates.pem is given:
            return None
        given, newest = configuration()
        return newest

    return grpc.dynamic_ssl_server_credentials(first, fetch, require_client_authentication=given.client_ca is not None)


def _pool() -> DescriptorPool:
    """The descriptors for reflection: those of the protocol and of the health service."""
    pool = DescriptorPool()
    for file in (inference_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    return pool
