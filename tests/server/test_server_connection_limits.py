"""What one connection may send: heads, framing, requests ahead, rubbish, and the rest of a refused body."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from starlette.types import Receive, Scope, Send

from sponge_server.protocol.http_connection import BODY_STEP, TURN_CHUNKS, HttpConnection, HttpLimits
from sponge_server.protocol.http_refusals import MOST_HEAD, MOST_HEADERS
from sponge_server.protocol.http_server import HttpServer, listen

LIMITS = HttpLimits(header_timeout_s=30, keep_alive_s=30, write_timeout_s=30, max_connections=100, backlog=100)
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
PATIENCE_S = 20

Answer = tuple[int, bytes, bytes]


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.send = writer.write
        self.close = writer.close

    async def answer(self) -> Answer:
        """Status, headers in lower case, body."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        return int(head.split()[1]), head, await self._reader.readexactly(length)

    async def rest(self) -> bytes:
        """Everything until the server closes the connection."""
        return await self._reader.read()


class App:
    """Answers with the length of the body, and at once where the path is /early."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        length, more = 0, scope["path"] != "/early"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            length += len(message["body"])
            more = message["more_body"]
        await self.may_answer.wait()
        text = b"%d" % length
        headers = [(b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})


@asynccontextmanager
async def serving(limits: HttpLimits = LIMITS) -> AsyncIterator[tuple[Connection, App]]:
    app = App()
    server = HttpServer(app, listen("127.0.0.1", 0, "--http-port"), limits)
    await server.start()
    connection = Connection(*await asyncio.open_connection("127.0.0.1", server.port))
    async with asyncio.timeout(PATIENCE_S):
        yield connection, app
        connection.close()
    await server.stop(0.5)


def post(body: bytes, path: bytes = b"/", headers: bytes = b"", announced: int | None = None) -> bytes:
    length = len(body) if announced is None else announced
    return b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%b\r\n%b" % (path, length, headers, body)


def chunked(body: bytes, size: int, trailers: bytes = b"") -> bytes:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n%b\r\n" % trailers


LONG_HEADER = b"x-long: %b\r\n" % (b"y" * (MOST_HEAD + 1))
MANY_HEADERS = b"a:\r\n" * (MOST_HEADERS + 1)
MANY_BYTES = b"x: %b\r\n" % (b"y" * 1000) * 100


@pytest.mark.parametrize("before", [b"", GET, post(b"z" * (1 << 20)), chunked(b"z" * (1 << 20), 1000)])
@pytest.mark.parametrize("headers", [LONG_HEADER, MANY_HEADERS, MANY_BYTES])
async def test_headers_are_bounded_whatever_came_before_on_the_connection(before: bytes, headers: bytes) -> None:
    async with serving() as (connection, _):
        connection.send(before)
        connection.send(b"GET / HTTP/1.1\r\nhost: x\r\n" + headers + b"\r\n")
        if before:
            assert (await connection.answer())[0] == 200
        status, head, body = await connection.answer()
        assert (status, b"connection: close" in head, b"headers-too-large" in body) == (431, True, True)


@pytest.mark.parametrize("header", [b"x-long: ", b"", b"a"])
async def test_a_head_that_never_ends_is_cut_off(header: bytes) -> None:
    async with serving() as (connection, app):
        connection.send(b"GET /" if not header else b"GET / HTTP/1.1\r\n" + header)
        connection.send(b"y" * (3 * MOST_HEAD))
        assert (await connection.answer())[0] == 431
        assert app.asked == 0


async def test_large_heads_and_bodies_within_the_bounds_are_served() -> None:
    async with serving() as (connection, _):
        headers = b"x: %b\r\n" % (b"y" * 1000) * 60
        for request in (post(b"z" * 300_000, headers=headers), chunked(b"z" * 300_000, 70_000, b"t: 1\r\n")):
            connection.send(request * 3)
            for _ in range(3):
                status, _, body = await connection.answer()
                assert (status, body) == (200, b"300000")


async def test_small_chunks_are_served_and_their_framing_is_bounded() -> None:
    async with serving() as (connection, _):
        connection.send(chunked(b"z" * 100_000, 1))
        assert (await connection.answer())[2] == b"100000"
        connection.send(chunked(b"z" * 100_000, 1)[:-5] + b"1;" + b"e" * 300_000)
        assert (await connection.answer())[0] == 431


async def test_tiny_chunks_leave_other_connections_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = most = 0
    take = HttpConnection.on_body

    def counted(connection: HttpConnection, body: bytes) -> None:
        nonlocal parsed
        parsed += 1
        take(connection, body)

    async def watch() -> None:
        nonlocal parsed, most
        while True:
            most, parsed = max(most, parsed), 0
            await asyncio.sleep(0)

    monkeypatch.setattr(HttpConnection, "on_body", counted)
    async with serving() as (connection, _):
        watching = asyncio.create_task(watch())
        connection.send(chunked(b"z" * 200_000, 1) + GET)
        assert (await connection.answer())[2] == b"200000"
        assert (await connection.answer())[0] == 200
        watching.cancel()
    assert 0 < most <= TURN_CHUNKS + BODY_STEP // 6 + 1


async def test_trailers_are_headers_too() -> None:
    async with serving() as (connection, app):
        app.may_answer.clear()
        connection.send(chunked(b"z" * (1 << 20), 1000, b"t: %b\r\n" % (b"y" * 1000) * 100))
        assert (await connection.answer())[0] == 431


@pytest.mark.parametrize(
    "rubbish", [b"\0\1\2\r\n\r\n", b"NOPE\r\n\r\n", b"GET / HTTP/1.1\r\n" + MANY_HEADERS + b"\r\n"]
)
@pytest.mark.parametrize("ahead", [1, 3, 1000])
async def test_rubbish_behind_good_requests_takes_no_answer_away(ahead: int, rubbish: bytes) -> None:
    async with serving() as (connection, app):
        app.may_answer.clear()
        connection.send(GET * ahead + rubbish + b"more" * 1000)
        await asyncio.sleep(0.05)
        app.may_answer.set()
        for _ in range(ahead):
            assert (await connection.answer())[0] == 200
        status, head, _ = await connection.answer()
        assert (status // 100, b"connection: close" in head) == (4, True)
        assert await connection.rest() == b""


async def test_a_broken_body_behind_a_good_request_is_refused_after_its_answer() -> None:
    async with serving() as (connection, app):
        app.may_answer.clear()
        connection.send(GET + chunked(b"zz", 1)[:-5] + b"what?\r\n")
        await asyncio.sleep(0.05)
        app.may_answer.set()
        assert (await connection.answer())[0] == 200
        assert (await connection.answer())[0] == 400
        assert app.asked == 1


async def test_a_broken_body_is_refused_in_place_of_its_own_answer() -> None:
    async with serving() as (connection, app):
        connection.send(chunked(b"zz", 1)[:-5] + b"what?\r\n")
        assert (await connection.answer())[0] == 400
        assert app.asked <= 1
        assert await connection.rest() == b""


@pytest.mark.parametrize("ending", [b"", b"\r\n"])
async def test_an_early_refusal_leaves_the_connection_silent_and_of_use(ending: bytes) -> None:
    async with serving(replace(LIMITS, header_timeout_s=0.3)) as (connection, _):
        connection.send(post(b"half", b"/early", announced=8))
        assert (await connection.answer())[2] == b"0"
        connection.send(b"rest" + ending)
        await asyncio.sleep(0.1)
        connection.send(GET)
        assert (await connection.answer())[0] == 200
        connection.send(post(b"half", b"/early", announced=8) + b"rest")
        assert (await connection.answer())[0] == 200
        await asyncio.sleep(0.6)
        connection.send(GET)
        assert (await connection.answer())[0] == 200, "no 408 came before, and the connection is open"


async def test_the_rest_of_a_refused_body_has_its_own_time_and_then_the_connection_ends_silently() -> None:
    async with serving(replace(LIMITS, header_timeout_s=0.2)) as (connection, _):
        connection.send(post(b"half", b"/early", announced=8))
        assert (await connection.answer())[0] == 200
        assert await connection.rest() == b""


async def test_a_silent_connection_is_closed_after_a_refused_body() -> None:
    async with serving(replace(LIMITS, keep_alive_s=0.2)) as (connection, _):
        connection.send(post(b"half", b"/early", announced=8))
        assert (await connection.answer())[0] == 200
        connection.send(b"rest")
        assert await connection.rest() == b""


async def test_a_head_that_waits_behind_an_answer_has_its_own_time() -> None:
    async with serving(replace(LIMITS, header_timeout_s=0.2)) as (connection, app):
        app.may_answer.clear()
        connection.send(GET + GET[:10])
        await asyncio.sleep(0.4)
        app.may_answer.set()
        assert (await connection.answer())[0] == 200
        assert (await connection.answer())[0] == 408


async def test_bodies_sent_ahead_arrive_whole() -> None:
    async with serving() as (connection, app):
        app.may_answer.clear()
        sizes = [0, 1, 70_000, 5, 300_000, 0, 20_000]
        for size in sizes:
            connection.send(post(b"z" * size))
        connection.send(chunked(b"z" * 100_000, 999))
        await asyncio.sleep(0.05)
        app.may_answer.set()
        for size in [*sizes, 100_000]:
            assert (await connection.answer())[2] == b"%d" % size
