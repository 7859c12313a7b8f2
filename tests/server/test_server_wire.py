"""The HTTP port on raw sockets: chunks, pipelines, half-closed connections, and invalid HTTP."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest
from server_process import ServerProcess, eventually

pytestmark = pytest.mark.torch

BODY = json.dumps(
    {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}]}
).encode()
HEAD = b"POST /v2/models/digits/infer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = ("--model", "digits=python://digits_shaped:factory", "--slo-ms", "5000", "--max-body-bytes", str(LIMIT))
    server = ServerProcess(tmp_path_factory.mktemp("w"), *options)
    yield server
    assert server.get("/v2/health/ready").status == 200
    assert server.stop() == 0


class Wire:
    """One connection."""

    def __init__(self, server: ServerProcess) -> None:
        host, _, port = server.data.removeprefix("http://").rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self.file = self.socket.makefile("rb")

    def send(self, *parts: bytes) -> Wire:
        for part in parts:
            self.socket.sendall(part)
        return self

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        status = int(self.file.readline().split()[1])
        headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        status, headers = self.head()
        return status, headers, self.file.read(int(headers.get("content-length", 0)))

    def closed(self) -> bool:
        return self.file.read(1) == b""


@pytest.fixture
def wire(server: ServerProcess) -> Iterator[Wire]:
    wire = Wire(server)
    yield wire
    wire.socket.close()


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_chunks_of_any_size_make_one_body(wire: Wire, size: int) -> None:
    wire.send(HEAD, b"transfer-encoding: chunked\r\n\r\n", chunked(BODY, size), LIVE)
    assert wire.answer()[0] == 200
    assert wire.answer()[0] == 200, "the connection goes on"


def test_a_chunked_body_beyond_the_limit_is_cut_off(wire: Wire) -> None:
    wire.send(HEAD, b"transfer-encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b"1" * 65536 + b"\r\n"
    wire.send(*[chunk] * (LIMIT // 65536 + 1))
    status, headers, _ = wire.answer()
    assert (status, headers["connection"], headers["content-type"]) == (413, "close", "application/problem+json")


def test_expect_100_continue_is_answered(wire: Wire) -> None:
    wire.send(HEAD, b"content-length: %d\r\nexpect: 100-continue\r\n\r\n" % len(BODY))
    assert wire.head()[0] == 100
    wire.send(BODY)
    assert wire.answer()[0] == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [(b"content-length: 99999999\r\n", 413), (b"content-length: 9\r\nx-sponge-slo-ms: soon\r\n", 400)],
)
def test_expect_100_continue_is_refused_before_the_body(wire: Wire, head: bytes, status: int) -> None:
    wire.send(HEAD, head, b"expect: 100-continue\r\n\r\n")
    got, headers, _ = wire.answer()
    assert (got, headers["connection"]) == (status, "close")


@pytest.mark.parametrize("how", ["the client wants so", "the body is long", "the body has no length"])
def test_a_client_that_is_still_sending_sees_a_refusal_that_ends_its_connection(wire: Wire, how: str) -> None:
    """Closed at once, the connection would be reset, and the answer lost."""
    length = 2 * LIMIT if how == "the body is long" else LIMIT // 2
    framing = (
        b"content-length: %d\r\n" % length if how != "the body has no length" else b"transfer-encoding: chunked\r\n"
    )
    wire.send(
        HEAD, b"connection: close\r\n" if how == "the client wants so" else b"", b"x-sponge-slo-ms: 0.1\r\n", framing
    )
    wire.send(b"\r\n")
    for _ in range(8):
        time.sleep(0.01)
        wire.send(b"%x\r\n" % (length // 8) if b"chunked" in framing else b"", bytes(length // 8))
    status, headers, body = wire.answer()
    assert (status, headers["connection"]) == (413 if how == "the body is long" else 503, "close")
    assert json.loads(body)["status"] == status
    assert wire.closed()


def test_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    good = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
    missing = b"GET /nope HTTP/1.1\r\nhost: x\r\n\r\n"
    wire.send(good + LIVE + missing + good)
    assert [wire.answer()[0] for _ in range(4)] == [200, 200, 404, 200]


def test_a_client_that_closes_its_side_has_left(server: ServerProcess, wire: Wire) -> None:
    """The end of what a client sends is all that a server ever sees of one that leaves; its place is freed."""
    wire.send(HEAD, b"content-length: %d\r\n\r\n" % len(BODY), BODY[:50])
    eventually(lambda: server.ask("/control/v1/state").json["uploads_in_flight"] == 1)
    before = server.ask("/control/v1/state").json["outcomes"]["cancelled"]
    wire.socket.shutdown(socket.SHUT_WR)
    assert wire.closed()
    eventually(lambda: server.ask("/control/v1/state").json["outcomes"]["cancelled"] == before + 1)


MALFORMED = {
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
    "a version to come": b"GET /v2 HTTP/9.9\r\n\r\n",
    "a space in a name": b"GET /v2 HTTP/1.1\r\nhost : x\r\n\r\n",
    "a line feed in a value": b"GET /v2 HTTP/1.1\r\nhost: x\r\nx: a\nb\r\n\r\n",
    "a NUL in a value": b"GET /v2 HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n",
    "a path that is no text": b"GET /v2/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
    "a length below zero": HEAD + b"content-length: -1\r\n\r\n",
    "a length that is no number": HEAD + b"content-length: ten\r\n\r\n",
    "a length beyond all numbers": HEAD + b"content-length: 99999999999999999999999999\r\n\r\n",
    "two lengths": HEAD + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "length and chunks": HEAD + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk without a length": HEAD + b"transfer-encoding: chunked\r\n\r\nxyz\r\n",
    "a chunk longer than it says": HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    "a method of lower case": b"get /v2 HTTP/1.1\r\nhost: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
def test_invalid_http_gets_a_problem_and_ends_the_connection(wire: Wire, sent: bytes) -> None:
    status, headers, body = wire.send(sent).answer()
    assert (status, headers["content-type"], headers["connection"]) == (400, "application/problem+json", "close")
    assert json.loads(body)["type"] == "urn:sponge:problem:malformed"
    assert wire.closed()


@pytest.mark.parametrize("where", ["one header", "many headers", "the path", "a trailer"])
def test_endless_headers_are_cut_off(wire: Wire, where: str) -> None:
    start = {
        "one header": b"GET /v2 HTTP/1.1\r\nx: ",
        "many headers": b"GET /v2 HTTP/1.1\r\n",
        "the path": b"GET /",
        "a trailer": HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n1\r\n0\r\nx: ",
    }[where]
    wire.send(start)
    more = b"x-more: yes\r\n" * 100 if where == "many headers" else b"a" * 1300
    try:
        for _ in range(200):
            wire.send(more)
            time.sleep(0.0005)
    except ConnectionError:
        return
    assert wire.head()[0] == 431


def test_a_body_without_length_or_chunks_is_empty(wire: Wire) -> None:
    status, _, body = wire.send(HEAD, b"\r\n").answer()
    assert (status, json.loads(body)["type"]) == (400, "urn:sponge:problem:invalid-request")


def test_an_unsupported_upgrade_is_ignored(wire: Wire) -> None:
    wire.send(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
    assert wire.answer()[0] == 200
