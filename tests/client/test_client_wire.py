"""Connections: the response reader against whole and split bytes, reuse, and timers that are on time."""

from __future__ import annotations

import asyncio
import time

import pytest
from oip_server import OipServer, Received, Reply

from sponge_client.errors import LoadError
from sponge_client.wire import Address, ConnectionPool, ResponseReader, precise_loop

FIXED = b"HTTP/1.1 200 OK\r\nServer-Timing: queue;dur=1\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + FIXED
EMPTY = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    ("data", "status", "keep_alive"),
    [(FIXED, 200, True), (CHUNKED, 503, True), (INTERIM, 200, True), (EMPTY, 204, False)],
)
def test_a_response_reads_the_same_however_it_is_split(data: bytes, status: int, keep_alive: bool, step: int) -> None:
    reader = ResponseReader()
    for start in range(0, len(data), step):
        assert not reader.done
        reader.feed(data[start : start + step])
    assert (reader.done, reader.status, reader.keep_alive) == (True, status, keep_alive)


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(("data", "body"), [(FIXED, b"hello"), (CHUNKED, b"abcde"), (EMPTY, b"")])
def test_the_body_is_kept_where_asked(data: bytes, body: bytes, step: int) -> None:
    reader = ResponseReader(keep_body=True)
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
    assert bytes(reader.body) == body


def test_headers_are_kept_with_lower_case_names() -> None:
    reader = ResponseReader()
    reader.feed(FIXED)
    assert reader.headers["server-timing"] == "queue;dur=1"


def test_a_response_of_unknown_length_ends_with_its_connection() -> None:
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 200 OK\r\n\r\nsome")
    assert not reader.done
    reader.end()
    assert reader.done
    assert not reader.keep_alive


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-OpenSSH\r\n\r\n", FIXED + b"more", b"HTTP/1.1 2x0 OK\r\n\r\n", b"x" * 70_000]
)
def test_what_is_no_response_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        ResponseReader().feed(data)


@pytest.mark.parametrize("data", [b"", FIXED[:-1], CHUNKED[:-5]])
def test_a_cut_response_is_refused(data: bytes) -> None:
    reader = ResponseReader()
    reader.feed(data)
    with pytest.raises(ValueError):
        reader.end()


def test_addresses() -> None:
    address = Address("http://[::1]:8080/base/")
    assert (address.host, address.port, address.path, address.host_header) == ("::1", 8080, "/base", "[::1]:8080")
    assert Address("http://example.test").port == 80
    assert Address("https://example.test").port == 443


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://host", "http://", ""])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(LoadError, match="give an address"):
        Address(url)


REQUEST = b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi"


async def test_a_connection_is_used_again_after_a_whole_exchange() -> None:
    async with OipServer(lambda _: Reply(chunked=True, body=b"abcdef")) as server:
        pool = ConnectionPool(Address(server.url))
        for _ in range(3):
            connection = await pool.take()
            response = await connection.begin(REQUEST)
            assert response.status == 200
            pool.give_back(connection, reusable=True)
        pool.close()
    assert server.connections == 1
    assert [request.body for request in server.received] == [b"hi"] * 3


async def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    async with OipServer(lambda _: Reply(close=True)) as server:
        pool = ConnectionPool(Address(server.url))
        for _ in range(2):
            connection = await pool.take()
            response = await connection.begin(REQUEST)
            pool.give_back(connection, response.keep_alive)
        pool.close()
    assert server.connections == 2


async def test_a_cut_answer_is_a_connection_error() -> None:
    async with OipServer(lambda _: Reply(cut=True)) as server:
        pool = ConnectionPool(Address(server.url))
        connection = await pool.take()
        with pytest.raises(ConnectionError, match="before the response was complete"):
            await connection.begin(REQUEST)
        pool.close()


async def test_a_long_body_arrives_whole() -> None:
    seen: list[Received] = []

    def reply(request: Received) -> Reply:
        seen.append(request)
        return Reply()

    head = b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"
    async with OipServer(reply) as server:
        pool = ConnectionPool(Address(server.url))
        connection = await pool.take()
        answer = connection.begin(head)
        for _ in range(100):
            connection.write(b"z" * 10_000)
        assert (await answer).status == 200
        pool.close()
    assert len(seen[0].body) == 1_000_000


def test_timers_of_the_precise_loop_are_not_rounded_to_milliseconds() -> None:
    async def lateness() -> list[float]:
        late = []
        for _ in range(40):
            due = time.perf_counter() + 0.0013
            await asyncio.sleep(0.0013)
            late.append(time.perf_counter() - due)
        return sorted(late)

    with asyncio.Runner(loop_factory=precise_loop) as runner:
        # The median: single outliers belong to the machine. Rounding alone would make every one 0.7 ms.
        assert runner.run(lateness())[20] < 0.5e-3
