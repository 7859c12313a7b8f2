"""A real server with TLS and API keys: REST, gRPC and the control port, and what changes while it runs."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc
import pytest
from certificates_kit import Authority, Pair, Secret, tls_secret
from grpc_health.v1 import health_pb2
from server_process import TOKEN, ServerProcess, command_body, eventually

from sponge_server.protos import inference_pb2 as pb

pytestmark = pytest.mark.torch

OPTIONS = ("--model", "m=python://commanded_model:factory", "--slo-ms", "20000", "--cores", "1")
SERVICE = "/inference.GRPCInferenceService"
AUTHORITY = Authority()
FIRST, SECOND = AUTHORITY.issue("first"), AUTHORITY.issue("second")
PHONE, CAMERA, NEXT = "c8f1b6e2a94d4f0e9b7a", "7d1e0c5b3a2f4e6d8c9b", "0a9b8c7d6e5f4a3b2c1d"

Unary: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"


@dataclass
class World:
    server: ServerProcess
    tls: Secret
    keys: Secret

    def presented(self, url: str) -> bytes:
        """The certificate at a port."""
        host, _, port = url.rpartition("/")[2].partition(":")
        text = ssl.get_server_certificate((host, int(port)))
        return ssl.PEM_cert_to_DER_cert(text)

    def rest(self, key: str | None, **headers: str) -> tuple[int | str, str]:
        """Status and `WWW-Authenticate` of an inference request."""
        own = {} if key is None else {"authorization": f"Bearer {key}"}
        reply = self.server.infer("m", command_body(1), **own, **headers)
        return reply.status, reply.headers.get("www-authenticate", "")

    def rpc(self, key: str | None, method: str = f"{SERVICE}/ModelInfer", **headers: str) -> tuple[int | str, str]:
        """Status, as of HTTP where there is one of the same meaning, and the slug of the problem."""
        metadata = [(name.replace("_", "-"), value) for name, value in headers.items()]
        if key is not None:
            metadata.append(("authorization", f"Bearer {key}"))
        given = {"name": "command", "datatype": "INT64", "shape": [1, 1], "contents": {"int64_contents": [1]}}
        message = pb.ModelInferRequest(model_name="m", inputs=[given]) if method.endswith("Infer") else None
        with self.channel() as channel:
            call: Unary = channel.unary_unary(method)
            try:
                call(b"" if message is None else message.SerializeToString(), timeout=30, metadata=tuple(metadata))
            except grpc.RpcError as error:
                trailing = {item.key: str(item.value) for item in error.trailing_metadata()}
                return error.code().name, trailing.get("sponge-problem", "")
        return 200, ""

    def channel(self) -> grpc.Channel:
        return grpc.secure_channel(self.server.grpc, grpc.ssl_channel_credentials(AUTHORITY.pem))


def started(folder: Path, *options: str, pair: Pair = FIRST) -> World:
    tls = tls_secret(folder / "tls", pair)
    keys = Secret(folder / "keys", keys=f"phone: {PHONE}\ncamera: {CAMERA}\n".encode())
    access = ("--tls-cert-file", tls.path("tls.crt"), "--tls-key-file", tls.path("tls.key"))
    words = (*map(str, access), "--api-keys-file", str(keys.path("keys")))
    return World(ServerProcess(folder, *OPTIONS, *words, *options, trust=AUTHORITY.client()), tls, keys)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = started(tmp_path_factory.mktemp("access"), "--header-timeout-s", "2")
    yield world
    assert world.server.stop() == 0
    log = world.server.errors.read_text()
    assert not any(key in log for key in (PHONE, CAMERA, NEXT))


def test_the_addresses_say_that_there_is_tls(world: World) -> None:
    assert world.server.data.startswith("https://")
    assert world.server.control.startswith("https://")
    assert "grpcs://" in world.server.line
    assert world.server.metric("sponge_certificate_expiry_seconds") > 0


@pytest.mark.parametrize("protocol", [World.rest, World.rpc])
@pytest.mark.parametrize(
    ("key", "headers", "refused"),
    [
        (PHONE, {}, None),
        (None, {"x_api_key": CAMERA}, None),
        (None, {}, "key-required"),
        ("", {}, "key-unknown"),
        (PHONE[:-1], {}, "key-unknown"),
        (PHONE + "x", {}, "key-unknown"),
        (PHONE, {"x_api_key": "wrong"}, "key-unknown"),
    ],
)
def test_inference_needs_a_key(
    world: World,
    protocol: Callable[..., tuple[int | str, str]],
    key: str | None,
    headers: dict[str, str],
    refused: str | None,
) -> None:
    status, detail = protocol(world, key, **headers)
    if refused is None:
        assert status == 200
    elif protocol is World.rest:
        assert (status, "invalid_token" in detail) == (401, refused == "key-unknown")
    else:
        assert (status, detail) == ("UNAUTHENTICATED", refused)


OPEN = ["/v2/health/live", "/v2/health/ready", "/v2/models/m/ready", "/v2/models/m/versions/1/ready"]
CLOSED = ["/v2", "/v2/models/m", "/docs", "/openapi.json", "/none", "/v2/health/ready/x", "/v2/models/m/infer/", "//v2"]


def test_only_health_is_open_over_rest(world: World) -> None:
    for path in OPEN:
        assert world.server.get(path).status == 200
    for path in CLOSED:
        reply = world.server.get(path)
        assert (reply.status, reply.headers["content-type"]) == (401, "application/problem+json"), path
        assert reply.headers["www-authenticate"].startswith("Bearer")
        assert world.server.get(path, authorization=f"Bearer {PHONE}").status != 401
    for path in ("/metrics", "/healthz", "/readyz"):
        assert world.server.ask(path, token=None).status == 200
    assert world.server.ask("/control/v1/state", token=PHONE).status == 401
    assert world.server.infer("m", command_body(1), authorization=f"Bearer {TOKEN}").status == 401


def test_only_health_is_open_over_grpc(world: World) -> None:
    for method in ("ServerLive", "ServerReady"):
        assert world.rpc(None, f"{SERVICE}/{method}")[0] == 200
    closed = ["ServerMetadata", "ModelMetadata", "ModelInfer", "None"]
    reflection = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    for method in (*(f"{SERVICE}/{name}" for name in closed), reflection, "/other.Service/Call"):
        assert world.rpc(None, method)[0] == "UNAUTHENTICATED", method
        assert world.rpc(PHONE, method)[0] != "UNAUTHENTICATED", method
    with world.channel() as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        assert check(health_pb2.HealthCheckRequest(), timeout=30).status == health_pb2.HealthCheckResponse.SERVING


def test_refusals_are_counted_and_cost_no_place(world: World) -> None:
    before = world.server.metric('sponge_problems_total{status="401"}')
    for _ in range(3):
        world.rest(None)
        world.rpc(None)
    assert world.server.metric('sponge_problems_total{status="401"}') == before + 6
    assert world.server.metric("sponge_request_bytes") == 0


def test_another_certificate_is_presented_and_running_requests_end(world: World) -> None:
    """On every port; a connection that is open goes on with what it has."""
    server = world.server
    ports = (server.data, server.control, server.grpc)
    with ThreadPoolExecutor(2) as pool, world.channel() as channel:
        live: Unary = channel.unary_unary(f"{SERVICE}/ServerLive")
        live(b"", timeout=30)
        running = pool.submit(lambda: server.infer("m", command_body(3000), authorization=f"Bearer {PHONE}").status)
        eventually(lambda: bool(server.ask("/control/v1/state").json["threads_running"]))
        world.tls.put(tls_crt=SECOND.cert, tls_key=SECOND.key)
        for port in ports:
            eventually(lambda port=port: world.presented(port) == SECOND.der)  # type: ignore[misc]
        live(b"", timeout=30)
        assert running.result() == 200
    assert world.rpc(PHONE)[0] == world.rest(PHONE)[0] == 200
    # A pair that does not fit changes nothing.
    world.tls.put(tls_crt=FIRST.cert, tls_key=SECOND.key)
    failures = 'sponge_reload_failures_total{setting="tls-cert-file"}'
    eventually(lambda: server.metric(failures) == 1)
    assert [world.presented(port) for port in ports] == [SECOND.der] * 3
    world.tls.put(tls_crt=FIRST.cert, tls_key=FIRST.key)
    for port in ports:
        eventually(lambda port=port: world.presented(port) == FIRST.der)  # type: ignore[misc]
    assert "files.refused" in server.errors.read_text()


def test_keys_come_and_go(world: World) -> None:
    world.keys.put(keys=f"phone: {PHONE}\nphone: {NEXT}\n".encode())
    eventually(lambda: world.rest(NEXT)[0] == 200)
    assert world.rest(PHONE)[0] == world.rpc(NEXT)[0] == 200
    assert (world.rest(CAMERA)[0], world.rpc(CAMERA)[0]) == (401, "UNAUTHENTICATED")
    world.keys.put(keys=b"# nothing\n")
    eventually(lambda: world.server.metric('sponge_reload_failures_total{setting="api-keys-file"}') == 1)
    assert (world.rest(NEXT)[0], world.rest(None)[0]) == (200, 401)
    world.keys.put(keys=f"phone: {PHONE}\ncamera: {CAMERA}\n".encode())
    eventually(lambda: world.rest(CAMERA)[0] == 200)
    assert world.rest(NEXT)[0] == 401


@pytest.mark.parametrize("port", ["data", "control", "grpc"])
@pytest.mark.parametrize(
    "content", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 600, b"\0" * 9000]
)
def test_strangers_before_the_handshake_leave_the_server_alone(world: World, port: str, content: bytes) -> None:
    host, _, number = getattr(world.server, port).rpartition("/")[2].partition(":")
    with socket.create_connection((host, int(number)), timeout=40) as stranger, contextlib.suppress(ConnectionError):
        stranger.sendall(content)
        while stranger.recv(1 << 16):
            pass
    assert world.rest(PHONE)[0] == world.rpc(PHONE)[0] == 200


@pytest.mark.parametrize("port", ["data", "control"])
def test_a_handshake_has_the_time_of_headers(world: World, port: str) -> None:
    failures = 'sponge_tls_handshake_failures_total{reason="timeout"}'
    before = world.server.metric(failures)
    host, _, number = getattr(world.server, port).rpartition("/")[2].partition(":")
    with socket.create_connection((host, int(number)), timeout=40) as stranger:
        assert stranger.recv(1) == b""
    assert world.server.metric(failures) == before + 1


def test_a_quota_is_of_the_key_whatever_the_client_calls_itself(tmp_path: Path) -> None:
    options = ("--quota-rows-per-s", "0.001", "--quota-burst-rows", "2", "--client-header", "x-client")
    world = started(tmp_path, *options)
    try:
        assert world.rest(PHONE, x_client="a")[0] == 200
        assert world.rpc(PHONE, x_client="b")[0] == 200
        assert world.rest(PHONE, x_client="c")[0] == 429
        assert world.rpc(PHONE)[0] == "RESOURCE_EXHAUSTED"
        assert world.rest(CAMERA, x_client="a")[0] == 200
    finally:
        assert world.server.stop() == 0


def test_clients_of_the_data_ports_may_need_a_certificate(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(AUTHORITY.pem)
    world = started(tmp_path, "--tls-client-ca-file", str(ca))
    try:
        assert world.server.ask("/healthz").status == 200
        with pytest.raises(OSError, match=r"certificate required|Connection reset|closed|EOF"):
            world.rest(PHONE)
        assert world.rpc(PHONE)[0] == "UNAVAILABLE"
        own = AUTHORITY.issue("client")
        credentials = grpc.ssl_channel_credentials(AUTHORITY.pem, own.key, own.cert)
        with grpc.secure_channel(world.server.grpc, credentials) as channel:
            live: Unary = channel.unary_unary(f"{SERVICE}/ServerLive")
            live(b"", timeout=30)
        world.server._trust = AUTHORITY.client(own, tmp_path)
        assert world.rest(PHONE)[0] == 200
    finally:
        assert world.server.stop() == 0
