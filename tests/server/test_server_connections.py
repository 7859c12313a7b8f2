"""Connections of an HTTP port on real sockets: slow clients, idle ones, too many, and the end of keep-alive."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from starlette.types import Receive, Scope, Send

from sponge_server.protocol.http_connection import HttpLimits
from sponge_server.protocol.http_server import HttpServer, listen

LIMITS = HttpLimits(header_timeout_s=30, keep_alive_s=30, write_timeout_s=30, max_connections=100, backlog=100)
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
LONG = 64 << 20
PATIENCE_S = 20

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class App:
    """Answers with `size` bytes once it may."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = 0
        self.size = 2

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        await self.may_answer.wait()
        headers = [(b"content-length", str(self.size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * self.size})


class World:
    def __init__(self, server: HttpServer, app: App) -> None:
        self.server = server
        self.app = app
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> Streams:
        streams = await asyncio.open_connection("127.0.0.1", self.server.port)
        self._writers.append(streams[1])
        return streams

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def serving(limits: HttpLimits = LIMITS) -> AsyncIterator[World]:
    app = App()
    server = HttpServer(app, listen("127.0.0.1", 0, "--http-port"), limits)
    await server.start()
    world = World(server, app)
    async with asyncio.timeout(PATIENCE_S):
        yield world
        world.close()
    await server.stop(0.5)


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Status, headers in lower case, body."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    return int(head.split()[1]), head, await reader.readexactly(length)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for is in the kernel
        await asyncio.sleep(0.005)


async def test_incomplete_headers_are_answered_with_408() -> None:
    async with serving(replace(LIMITS, header_timeout_s=0.2)) as world:
        reader, writer = await world.connect()
        for byte in REQUEST[:-2]:
            writer.write(bytes((byte,)))
        status, head, body = await answer(reader)
        assert (status, b"connection: close" in head, b"too-slow" in body) == (408, True, True)
        assert await reader.read() == b""
        assert world.app.asked == 0


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"])
async def test_a_connection_without_a_request_is_closed(sent: bytes) -> None:
    async with serving(replace(LIMITS, header_timeout_s=0.2)) as world:
        reader, writer = await world.connect()
        writer.write(sent)
        await reader.read()
        await until(lambda: world.server.connections == 0)


async def test_the_next_request_of_a_connection_has_its_own_time_for_headers() -> None:
    async with serving(replace(LIMITS, header_timeout_s=0.3)) as world:
        reader, writer = await world.connect()
        for _ in range(3):
            writer.write(REQUEST)
            assert (await answer(reader))[0] == 200
            await asyncio.sleep(0.2)
        writer.write(REQUEST[:5])
        assert (await answer(reader))[0] == 408


async def test_a_slow_response_does_not_count_as_a_slow_request() -> None:
    async with serving(replace(LIMITS, header_timeout_s=0.1)) as world:
        world.app.may_answer.clear()
        reader, writer = await world.connect()
        writer.write(REQUEST)
        await until(lambda: world.app.asked == 1)
        await asyncio.sleep(0.3)
        world.app.may_answer.set()
        assert (await answer(reader))[0] == 200


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    async with serving(replace(LIMITS, keep_alive_s=0.2)) as world:
        reader, writer = await world.connect()
        writer.write(REQUEST)
        assert (await answer(reader))[0] == 200
        assert await reader.read() == b""


async def test_connections_beyond_the_limit_are_refused_and_open_ones_continue() -> None:
    async with serving(replace(LIMITS, max_connections=2)) as world:
        first, second, third = [await world.connect() for _ in range(3)]
        third[1].write(REQUEST)
        status, head, body = await answer(third[0])
        assert (status, b"too-many-connections" in body) == (503, True)
        assert b"retry-after: " in head
        for reader, writer in (first, second):
            writer.write(REQUEST)
            assert (await answer(reader))[0] == 200
        first[1].close()
        await until(lambda: world.server.connections == 1)
        reader, writer = await world.connect()
        writer.write(REQUEST)
        assert (await answer(reader))[0] == 200


async def test_a_client_that_does_not_read_its_response_is_dropped() -> None:
    async with serving(replace(LIMITS, write_timeout_s=0.5)) as world:
        world.app.size = LONG
        with socket.create_connection(("127.0.0.1", world.server.port)) as deaf:
            deaf.sendall(REQUEST)
            await until(lambda: world.app.asked == 1 and world.server.connections == 1)
            await until(lambda: world.server.connections == 0)


async def test_leaving_closes_connections_after_their_response_and_accepts_new_ones() -> None:
    async with serving() as world:
        world.app.may_answer.clear()
        reader, writer = await world.connect()
        writer.write(REQUEST)
        await until(lambda: world.app.asked == 1)
        world.server.leave()
        new_reader, new_writer = await world.connect()
        new_writer.write(REQUEST)
        await until(lambda: world.app.asked == 2)
        world.app.may_answer.set()
        for stream in (reader, new_reader):
            status, head, _ = await answer(stream)
            assert (status, b"connection: close" in head) == (200, True)
            assert await stream.read() == b""


async def test_stopping_waits_for_a_slow_reader_within_the_grace() -> None:
    async with serving() as world:
        world.app.size = LONG
        reader, writer = await world.connect()
        writer.write(REQUEST)
        await until(lambda: world.app.asked == 1)
        stopping = asyncio.create_task(world.server.stop(PATIENCE_S))
        await asyncio.sleep(0.2)
        assert len((await answer(reader))[2]) == LONG
        await stopping


async def test_stopping_without_grace_drops_a_client_that_does_not_read() -> None:
    async with serving() as world:
        world.app.size = LONG
        _, writer = await world.connect()
        writer.write(REQUEST)
        await until(lambda: world.app.asked == 1)
        began = time.monotonic()
        await world.server.stop(0.1)
        assert time.monotonic() - began < PATIENCE_S / 2


async def test_requests_sent_ahead_are_served_one_after_the_other() -> None:
    """However many a client sends at once, it takes the room of one."""
    ahead = 3000
    async with serving() as world:
        world.app.may_answer.clear()
        reader, writer = await world.connect()
        writer.write(REQUEST * ahead)
        await until(lambda: world.app.asked == 1)
        await asyncio.sleep(0.05)
        assert world.app.asked == 1
        world.app.may_answer.set()
        for _ in range(ahead):
            assert (await answer(reader))[0] == 200
        assert world.app.asked == ahead
