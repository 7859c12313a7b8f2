"""Ports on both families: `--host ::` listens to IPv6 and IPv4; IPv6 addresses have their brackets in URLs."""

from __future__ import annotations

import socket

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sponge_core.addresses import authority, host_of
from sponge_core.errors import SpongeError
from sponge_server.protocol.grpc_server import GrpcServer
from sponge_server.protocol.http_server import listen
from sponge_system import network

LOOPBACKS = ("127.0.0.1", "::1") if socket.has_dualstack_ipv6() else ("127.0.0.1",)


class Nothing(grpc.GenericRpcHandler):  # type: ignore[misc, name-defined, unused-ignore]
    def service(self, handler_call_details: object) -> None:
        return None


@pytest.mark.parametrize("loopback", LOOPBACKS)
def test_every_interface_is_of_both_families(loopback: str) -> None:
    with listen("::", 0, "--http-port") as sock:
        sock.listen()
        with socket.create_connection((loopback, sock.getsockname()[1]), timeout=5):
            assert sock.accept()[0] is not None


@pytest.mark.parametrize("loopback", LOOPBACKS)
async def test_grpc_too(loopback: str) -> None:
    server = GrpcServer(Nothing(), "::", 0, max_connections=8)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(authority(loopback, server.port)) as channel:
            stub = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call, unused-ignore]
            assert await stub.Check(health_pb2.HealthCheckRequest(), timeout=10) is not None
    finally:
        await server.stop(0.0)


def test_without_ipv6_it_is_every_interface_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    network.every_interface.cache_clear()
    try:
        with listen("::", 0, "--http-port") as sock:
            assert sock.family == socket.AF_INET
    finally:
        network.every_interface.cache_clear()


def test_one_address_is_of_its_family_alone() -> None:
    with listen("127.0.0.1", 0, "--http-port") as sock:
        assert sock.family == socket.AF_INET
    if "::1" in LOOPBACKS:
        with listen("::1", 0, "--http-port") as sock:
            assert sock.family == socket.AF_INET6


def test_an_address_that_is_not_here_is_named_with_its_brackets() -> None:
    with pytest.raises(SpongeError, match=r"--http-port|--host"):
        listen("2001:db8::1", 8080, "--http-port")


@pytest.mark.parametrize(
    ("host", "text"), [("10.0.0.1", "10.0.0.1:80"), ("fd00::7", "[fd00::7]:80"), ("a.b", "a.b:80"), ("::1", "[::1]:80")]
)
def test_authority(host: str, text: str) -> None:
    assert authority(host, 80) == text
    assert host_of(text) == host_of(host) == host
