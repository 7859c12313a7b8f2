"""Requests that offer another protocol, as Java's client does by default, are served as HTTP/1.1, body included."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from sponge_server.protocol.http_connection import HttpLimits
from sponge_server.protocol.http_server import HttpServer, listen

LIMITS = HttpLimits(header_timeout_s=30, keep_alive_s=30, write_timeout_s=30, max_connections=100, backlog=100)
PATIENCE_S = 20
JAVA = b"connection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
OFFERS = {
    "none": b"",
    "h2c": JAVA + b"upgrade: h2c\r\n",
    "websocket": b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n",
    "several": b"upgrade: foo/2, h2c\r\nconnection: keep-alive, upgrade\r\n",
    "without its connection header": b"upgrade: h2c\r\n",
}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with method, path and body."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    text = f"{scope['method']} {scope['path']} ".encode() + body
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})


@dataclass(frozen=True)
class Sent:
    """One request, and the answer that is due."""

    offer: str
    body: bytes | None
    chunked: bool

    @property
    def wire(self) -> bytes:
        offer = OFFERS[self.offer]
        if self.body is None:
            return b"GET /x HTTP/1.1\r\nhost: x\r\n%b\r\n" % offer
        if self.chunked:
            chunk = b"%x\r\n%b\r\n" % (len(self.body), self.body) if self.body else b""
            return b"POST /x HTTP/1.1\r\nhost: x\r\n%btransfer-encoding: chunked\r\n\r\n%b0\r\n\r\n" % (offer, chunk)
        return b"POST /x HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n%b" % (offer, len(self.body), self.body)

    @property
    def answer(self) -> bytes:
        return b"GET /x " if self.body is None else b"POST /x " + self.body


async def exchange(pieces: list[bytes], answers: int) -> list[bytes]:
    """Sends the pieces one by one, and returns the bodies of the answers."""
    server = HttpServer(echo, listen("127.0.0.1", 0, "--http-port"), LIMITS)
    await server.start()
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        bodies = []
        for _ in range(answers):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 200"), head
            bodies.append(await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0])))
        writer.close()
    await server.stop(0.1)
    return bodies


requests = st.builds(
    Sent,
    st.sampled_from(sorted(OFFERS)),
    st.none() | st.binary(max_size=40) | st.sampled_from([b"GET / HTTP/1.1\r\n\r\n", b"upgrade: h2c\r\n" * 2000]),
    st.booleans(),
)


@settings(max_examples=60)
@given(sent=st.lists(requests, min_size=1, max_size=5), data=st.data())
def test_every_request_is_answered_with_its_body_wherever_the_segments_end(
    sent: list[Sent], data: st.DataObject
) -> None:
    stream = b"".join(one.wire for one in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    edges = [0, *cuts, len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert asyncio.run(exchange(pieces, len(sent))) == [one.answer for one in sent]


@pytest.mark.parametrize("chunked", [False, True])
async def test_java_sends_the_body_in_a_segment_of_its_own(chunked: bool) -> None:
    sent = Sent("h2c", b'{"inputs": []}', chunked)
    head, body = sent.wire.split(b"\r\n\r\n", 1)
    assert await exchange([head + b"\r\n\r\n", body], 1) == [sent.answer]


async def test_thousands_of_offers_in_one_segment_are_served_one_by_one() -> None:
    sent = Sent("h2c", None, False)
    assert await exchange([sent.wire * 2000], 2000) == [sent.answer] * 2000


async def test_connect_is_refused() -> None:
    server = HttpServer(echo, listen("127.0.0.1", 0, "--http-port"), LIMITS)
    await server.start()
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"CONNECT somewhere:443 HTTP/1.1\r\nhost: somewhere\r\n\r\n\x16\x03\x01")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 405")
        assert b"\r\nallow: " in answer
        writer.close()
    await server.stop(0.1)
