"""An HTTP port with TLS on real sockets: rotation, strangers before the handshake, and the end of connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from certificates_kit import Authority, tls_secret
from starlette.types import Receive, Scope, Send

from sponge_server.observability.metrics import Metrics
from sponge_server.protocol.http_connection import HttpLimits
from sponge_server.protocol.http_server import HttpServer, PortTls, listen
from sponge_server.security.certificates import Certificates
from sponge_server.security.files import TlsFiles

LIMITS = HttpLimits(header_timeout_s=30, keep_alive_s=30, write_timeout_s=30, max_connections=100, backlog=100)
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
PATIENCE_S = 20
AUTHORITY = Authority()
FIRST, SECOND = AUTHORITY.issue("first"), AUTHORITY.issue("second")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Run = Callable[..., None]


class World:
    """A port whose application answers /SIZE with so many bytes, once it may; /early answers without the body."""

    def __init__(self, folder: Path, limits: HttpLimits) -> None:
        self.metrics = Metrics()
        self.secret = tls_secret(folder / "secret", FIRST)
        self.certificates = Certificates(
            TlsFiles(self.secret.path("tls.crt"), self.secret.path("tls.key")), self.metrics
        )
        self.certificates.load()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = 0
        self.schemes: set[str] = set()
        tls = PortTls(lambda: self.certificates.data, self.metrics.handshake_failures)
        self.server = HttpServer(self, listen("127.0.0.1", 0, "--http-port"), limits, tls)
        self._writers: list[asyncio.StreamWriter] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        self.schemes.add(scope["scheme"])
        more = scope["path"] != "/early"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message.get("more_body", False)
        await self.may_answer.wait()
        size = int(scope["path"][1:]) if scope["path"][1:].isdigit() else 2
        headers = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})

    async def connect(self, context: ssl.SSLContext | None = None) -> Streams:
        context = context or AUTHORITY.client()
        return self._keep(await asyncio.open_connection("127.0.0.1", self.server.port, ssl=context))

    async def stranger(self) -> Streams:
        return self._keep(await asyncio.open_connection("127.0.0.1", self.server.port))

    def _keep(self, streams: Streams) -> Streams:
        self._writers.append(streams[1])
        return streams

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def failures(self, reason: str) -> float:
        name = "sponge_tls_handshake_failures_total"
        return self.metrics.registry.get_sample_value(name, {"reason": reason}) or 0.0


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs a scenario on the server's event loop, and on the standard one."""

    async def play(scenario: Callable[[World], Awaitable[None]], limits: HttpLimits) -> None:
        world = World(tmp_path, limits)
        await world.server.start()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await scenario(world)
        finally:
            world.close()
            await world.server.stop(0.5)

    def start(scenario: Callable[[World], Awaitable[None]], *, only: str = "", **limits: float) -> None:
        if only and request.param != only:
            return
        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(play(scenario, replace(LIMITS, **limits)))  # type: ignore[arg-type]

    return start


def seen(writer: asyncio.StreamWriter) -> bytes:
    """The certificate that the client got."""
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return found


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    return int(head.split()[1]), await reader.readexactly(length)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for is in the kernel
        await asyncio.sleep(0.005)


def test_requests_are_answered_over_tls(run: Run) -> None:
    async def scenario(world: World) -> None:
        reader, writer = await world.connect()
        ended = writer.get_extra_info("ssl_object")
        assert ended.version() in ("TLSv1.2", "TLSv1.3")
        assert seen(writer) == FIRST.der
        for size in (2, 100_000, 3_000_000):
            writer.write(b"POST /%d HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n" % size + b"y" * 300_000)
            assert await answer(reader) == (200, b"x" * size)
        assert world.schemes == {"https"}
        assert world.server.connections == 1

    run(scenario)


def test_a_client_that_offers_protocols_gets_http_1_1(run: Run) -> None:
    async def scenario(world: World) -> None:
        for offered, chosen in ((["h2", "http/1.1"], "http/1.1"), (["h2"], None)):
            context = AUTHORITY.client()
            context.set_alpn_protocols(offered)
            _, writer = await world.connect(context)
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == chosen

    run(scenario)


def test_a_new_certificate_ends_no_request(run: Run) -> None:
    async def scenario(world: World) -> None:
        world.may_answer.clear()
        reader, writer = await world.connect()
        writer.write(GET)
        await until(lambda: world.asked == 1)
        world.secret.put(tls_crt=SECOND.cert, tls_key=SECOND.key)
        world.certificates.load()
        _, other = await world.connect()
        assert seen(other) == SECOND.der
        world.may_answer.set()
        assert await answer(reader) == (200, b"xx")
        writer.write(GET)
        assert await answer(reader) == (200, b"xx")
        assert seen(writer) == FIRST.der

    run(scenario)


@pytest.mark.parametrize(
    "request_bytes",
    [GET, b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 400000\r\n\r\n" + b"y" * 400_000],
)
def test_plain_http_is_told_which_port_this_is(run: Run, request_bytes: bytes) -> None:
    async def scenario(world: World) -> None:
        reader, writer = await world.stranger()
        writer.write(request_bytes)
        status, body = await answer(reader)
        assert status == 400
        assert "https://" in json.loads(body)["detail"]
        assert await reader.read() == b""
        writer.close()
        await until(lambda: world.failures("plain") == 1)
        assert world.asked == world.server.connections == 0

    run(scenario)


RUBBISH = {
    "zeros": b"\0" * 5000,
    "a record that is none": b"\x16" + b"\xff" * 5000,
    "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "h2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a hello of an old version": b"\x80\x2e\x01\x00\x02" + b"\0" * 50,
    "a cut hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("rubbish", RUBBISH.values(), ids=RUBBISH.keys())
def test_rubbish_ends_its_connection_and_nothing_else(run: Run, rubbish: bytes) -> None:
    async def scenario(world: World) -> None:
        reader, writer = await world.connect()
        for _ in range(5):
            other_reader, other = await world.stranger()
            other.write(rubbish)
            other.write_eof()
            with contextlib.suppress(ConnectionResetError):
                await other_reader.read()
        writer.write(GET)
        assert await answer(reader) == (200, b"xx")
        await until(lambda: world.failures("failed") + world.failures("plain") == 5)
        assert world.server.connections == 1

    run(scenario)


def test_connections_that_say_nothing_end_with_the_time_for_headers(run: Run) -> None:
    async def scenario(world: World) -> None:
        silent = [await world.stranger() for _ in range(3)]
        slow_reader, slow = await world.stranger()
        slow.write(RUBBISH["a cut hello"])
        for reader, _ in silent:
            assert await reader.read() == b""
        assert await slow_reader.read() == b""
        await until(lambda: world.failures("timeout") == 4)
        reader, writer = await world.connect()
        writer.write(GET)
        assert await answer(reader) == (200, b"xx")

    run(scenario, header_timeout_s=0.3)


def test_stalled_handshakes_keep_nobody_out(run: Run) -> None:
    """Neither by their number, nor by the limit of connections."""

    async def scenario(world: World) -> None:
        strangers = [await world.stranger() for _ in range(20)]
        for _, writer in strangers[::2]:
            writer.write(RUBBISH["a cut hello"])
        await until(lambda: world.failures("displaced") == 18)
        for _ in range(2):
            reader, writer = await world.connect()
            writer.write(GET)
            assert await answer(reader) == (200, b"xx")
        assert world.server.connections == 2
        reader, writer = await world.connect()
        assert (await answer(reader))[0] == 503

    run(scenario, max_connections=2)


def test_a_client_without_trust_costs_nothing(run: Run) -> None:
    async def scenario(world: World) -> None:
        for _ in range(3):
            with pytest.raises(ssl.SSLCertVerificationError):
                await world.connect(ssl.create_default_context())
        await until(lambda: world.server.connections == 0)

    run(scenario)


def test_an_early_answer_is_seen_while_the_client_still_sends(run: Run) -> None:
    async def scenario(world: World) -> None:
        reader, writer = await world.connect()
        writer.write(b"POST /early HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 20000000\r\n\r\n")
        for _ in range(20):
            writer.write(b"y" * 100_000)
            await asyncio.sleep(0)
        assert await answer(reader) == (200, b"xx")

    run(scenario, only="uvloop")  # the standard loop resets such a connection; servers run on uvloop


def test_what_is_no_http_is_answered_and_the_connection_ends(run: Run) -> None:
    async def scenario(world: World) -> None:
        reader, writer = await world.connect()
        writer.write(b"\x00\x01\x02 rubbish\r\n\r\n")
        assert (await answer(reader))[0] == 400
        assert await reader.read() == b""
        await until(lambda: world.server.connections == 0)

    run(scenario)


def test_the_last_answer_reaches_a_slow_reader_in_full(run: Run) -> None:
    async def scenario(world: World) -> None:
        reader, writer = await world.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /8000000 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        await until(lambda: world.asked == 1)
        await asyncio.sleep(1.5)  # longer than the server lingers
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await answer(reader) == (200, b"x" * 8_000_000)

    run(scenario)


def test_idle_clients_do_not_delay_the_end_of_the_server(run: Run) -> None:
    """A client that does not look at its connection never answers TLS's goodbye."""

    async def scenario(world: World) -> None:
        def silent() -> socket.socket:
            raw = socket.create_connection(("127.0.0.1", world.server.port))
            connection = AUTHORITY.client().wrap_socket(raw, server_hostname="localhost")
            connection.sendall(GET)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            return connection

        idle = [await asyncio.to_thread(silent) for _ in range(2)]
        stranger = await world.stranger()
        began = asyncio.get_running_loop().time()
        await world.server.stop(15)
        assert asyncio.get_running_loop().time() - began < 5
        assert await stranger[0].read() == b""
        for connection in idle:
            connection.close()

    run(scenario)
