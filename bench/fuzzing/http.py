"""Malformed HTTP/1.1 as bytes, each made from a good request by one or a few mutations. Pure: a seed in, bytes out."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Target", "good_request", "malformed_request"]

DEADLINE_HEADERS = (
    *("x-sponge-slo-ms", "x-sponge-slo-class", "x-sponge-sent-at", "x-request-timeout-seconds"),
    *("x-envoy-expected-rq-timeout-ms", "grpc-timeout", "inference-header-content-length", "content-encoding"),
    *("accept", "transfer-encoding", "content-length", "expect", "host", "connection", "content-type"),
)
HEADER_VALUES = (
    *(b"", b"-1", b"0", b"1", b"NaN", b"inf", b"1e308", b"-1e-308", b"9" * 30, b"0x10", b"1_000", b" 7 ", b"\xff\xfe"),
    *(b"\xc3\xa9", b"a\tb", b"1\r\nx-injected: 1", b"1\nx: 1", b"1\0", b"gzip", b"chunked", b"100-continue", b"5S"),
    *(b"image/png", b"application/json; charset=latin-1", b"text/plain", b"multipart/form-data", b"x" * 5000),
    *(b"\xd9\xa1\xd9\xa2", b"99999999H", b"1n", b"keep-alive", b"upgrade", b"identity"),
)
WEIRD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**40, 0.5, -0.0, 1e308, float("nan")),
    *(float("inf"), -float("inf"), "", "x", "\ud800", "\0", "é" * 50, "A" * 20_000, "NaN", [], {}, [[]], [None]),
    *([1, [2, 3]], [1, "x"], {"a": 1}, [1e999], [True, 2], "FP16", "BF16", "BYTES", "INT8", "UINT64", ["////"]),
)
PATHS = (
    *(b"/v2", b"/v2/", b"/v2/models/digits", b"/v2/models/%00/infer", b"/v2/models/../infer", b"/%ff%fe", b"//", b"*"),
    *(b"/v2/models/digits/versions/1/infer", b"/v2/models/digits/versions/%20/infer", b"/" + b"a" * 9000, b"/\xff"),
    *(b"/v2/models/d\xc3\xa9/infer", b"/v2/models/digits/infer?x=%gg", b"http://[::1/v2", b"/docs", b"/openapi.json"),
    *(b"/docs/assets/../../etc/passwd", b"/docs/assets/%2e%2e/core.py", b"?", b"/v2/health/ready/"),
)
METHODS = (b"GET", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT", b"PRI", b"post", b"\x00")


@dataclass(frozen=True, slots=True)
class Target:
    """What a good request to a model looks like: one row of numbers, or one image."""

    model: str
    tensor: str
    shape: tuple[int, ...]
    output: str
    image: bytes

    @property
    def elements(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(slots=True)
class _Request:
    method: bytes = b"POST"
    path: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    raw: bytes | None = None

    def bytes(self) -> bytes:
        if self.raw is not None:
            return self.raw
        names = {name.lower() for name, _ in self.headers}
        headers = [(b"host", b"x"), *self.headers]
        if not {b"content-length", b"transfer-encoding"} & names:
            headers.append((b"content-length", b"%d" % len(self.body)))
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        return b"%s %s HTTP/1.1\r\n%s\r\n%s" % (self.method, self.path, lines, self.body)


def good_request(target: Target) -> bytes:
    """One that has to be answered with 200; the connection ends with it."""
    request = _json(target, _document(target))
    request.headers.append((b"connection", b"close"))
    return request.bytes()


def malformed_request(rng: random.Random, target: Target) -> bytes:
    """One that is wrong in some way, or at least odd."""
    base = rng.choice((_json_base, _json_base, _binary_base, _image_base))(rng, target)
    for _ in range(rng.choice((0, 1, 1, 2))):
        rng.choice(MUTATIONS)(rng, base)
    raw = base.bytes()
    dice = rng.random()
    if dice < 0.05:
        return raw[: rng.randrange(len(raw))]
    if dice < 0.1:
        return _flipped(rng, raw, rng.randint(1, 8))
    if dice < 0.13:
        return raw * rng.randint(2, 4)
    return raw


def _document(target: Target) -> dict[str, Any]:
    entry = {"name": target.tensor, "datatype": "FP32", "shape": list(target.shape), "data": [0.5] * target.elements}
    return {"id": "1", "inputs": [entry], "outputs": [{"name": target.output}], "parameters": {"timeout": 400_000}}


def _json(target: Target, document: Any) -> _Request:
    path = f"/v2/models/{target.model}/infer".encode()
    return _Request(path=path, headers=[(b"content-type", b"application/json")], body=json.dumps(document).encode())


def _json_base(rng: random.Random, target: Target) -> _Request:
    document: Any = _document(target)
    for _ in range(rng.randint(0, 3)):
        document = _replaced(rng, document)
    request = _json(target, document)
    dice = rng.random()
    if dice < 0.08:
        depth = rng.choice((50, 500, 5_000, 100_000))
        opening = rng.choice((b"[", b'{"a":'))
        request.body = opening * depth + rng.choice((b"", b"1" + (b"]" if opening == b"[" else b"}") * depth))
    elif dice < 0.12:
        data = "[" * 70 + "1" + "]" * 70
        request.body = json.dumps(_document(target)).replace("[0.5", data + ", [0.5", 1).encode()
    elif dice < 0.16:
        request.body = request.body.replace(b'"FP32"', b'"\xff\xc0"')
    elif dice < 0.2:
        request.body = rng.randbytes(rng.randint(0, 3000))
    return request


def _binary_base(rng: random.Random, target: Target) -> _Request:
    odd = rng.choice((0.0, 0.0, float("nan"), float("inf"), 3e38))
    data = struct.pack(f"<{target.elements}f", odd, *(rng.uniform(-2, 2) for _ in range(target.elements - 1)))
    document: Any = _document(target)
    entry = document["inputs"][0]
    del entry["data"]
    entry["datatype"] = rng.choice(("FP32", "FP32", "BYTES", "FP16", "BF16", "BOOL", "INT64", "FP64"))
    entry["parameters"] = {"binary_data_size": len(data) + rng.choice((0, 0, 0, 1, -1, 4, -4, 10**9, -(10**9)))}
    document["parameters"]["binary_data_output"] = rng.choice((True, False, 1, "yes"))
    if rng.random() < 0.3:
        document = _replaced(rng, document)
    if rng.random() < 0.3:
        prefix = rng.choice((len(data) - 4, 0, 2**32 - 1, 5)).to_bytes(4, "little")
        data = prefix + data[4:]
    head = json.dumps(document).encode()
    length = max(-5, len(head) + rng.choice((0, 0, 0, 0, 1, -1, 7, 10**6, -(10**6))))
    request = _json(target, document)
    request.headers = [(b"inference-header-content-length", b"%d" % length)]
    request.body = head + data[: rng.choice((None, None, None, 3, 100, -1))]
    return request


def _image_base(rng: random.Random, target: Target) -> _Request:
    image = target.image
    dice = rng.random()
    if dice < 0.3:
        image = image[: rng.randrange(len(image))]
    elif dice < 0.6:
        image = _flipped(rng, image, rng.randint(1, 6))
    elif dice < 0.7:
        image = image[:16] + rng.randbytes(8) + image[24:]  # width and height of a PNG
    elif dice < 0.8:
        image = rng.choice((b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"")) + rng.randbytes(rng.randint(0, 500))
    request = _json(target, None)
    request.headers, request.body = [(b"content-type", rng.choice((b"image/png", b"image/jpeg", b"IMAGE/PNG")))], image
    return request


def _header(rng: random.Random, request: _Request) -> None:
    name = rng.choice(DEADLINE_HEADERS).encode() if rng.random() < 0.9 else rng.choice((b"", b"a b", b"\xff", b"x:"))
    request.headers.insert(rng.randint(0, len(request.headers)), (name, rng.choice(HEADER_VALUES)))


def _many_headers(rng: random.Random, request: _Request) -> None:
    request.headers += [(b"x-%d" % index, b"y" * rng.choice((1, 100))) for index in range(rng.choice((10, 200, 2000)))]


def _line(rng: random.Random, request: _Request) -> None:
    if rng.random() < 0.5:
        request.method = rng.choice(METHODS)
    else:
        request.path = rng.choice(PATHS)


def _length(rng: random.Random, request: _Request) -> None:
    length = len(request.body) + rng.choice((1, -1, 100, -100, 10**9))
    request.headers.append((b"content-length", b"%d" % length))


def _chunks(rng: random.Random, request: _Request) -> None:
    request.headers.append((b"transfer-encoding", b"chunked"))
    size = rng.choice((1, 17, 5000))
    parts = [request.body[at : at + size] for at in range(0, len(request.body), size)]
    lie = rng.choice((0, 0, 0, 1, -1))
    framed = b"".join(b"%x\r\n%s\r\n" % (max(0, len(part) + lie), part) for part in parts)
    request.body = framed + rng.choice(
        (b"0\r\n\r\n", b"0\r\n\r\n", b"", b"0\r\nx: y\r\n\r\n", b"ffffffffffffffffff\r\n")
    )


def _garbage(rng: random.Random, request: _Request) -> None:
    request.raw = rng.choice((b"", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")) + rng.randbytes(
        rng.randint(1, 400)
    )


Mutation = Callable[[random.Random, _Request], None]
MUTATIONS: tuple[Mutation, ...] = (_header, _header, _header, _many_headers, _line, _line, _length, _chunks, _garbage)


def _flipped(rng: random.Random, data: bytes, count: int) -> bytes:
    changed = bytearray(data)
    for _ in range(count):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _replaced(rng: random.Random, node: Any) -> Any:
    """The document with one node replaced by something else, dropped or named otherwise."""
    if not isinstance(node, dict | list) or not node or rng.random() < 0.12:
        return rng.choice(WEIRD)
    if isinstance(node, list):
        index = rng.randrange(len(node))
        return [*node[:index], *([] if rng.random() < 0.1 else [_replaced(rng, node[index])]), *node[index + 1 :]]
    key = rng.choice(list(node))
    rest = {name: value for name, value in node.items() if name != key}
    if rng.random() < 0.1:
        return rest
    return {**rest, (key if rng.random() < 0.95 else "x"): _replaced(rng, node[key])}
