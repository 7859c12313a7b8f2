"""Small requests that cost a careless server much: all the numbers that a client may choose. A seed in, bytes out."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

from bench.fuzzing.http import Target
from bench.fuzzing.rpc import SERVICE, Call
from sponge_server.protos import inference_pb2 as pb

__all__ = ["amplified"]

SIZES = (1 << 6, 1 << 10, 1 << 14, 1 << 17, 1 << 20)
"""Bytes or items, roughly: some below every bound, some far above."""

LARGE = (2**31, 2**63 - 1, 2**64 - 1, 10**9, 65_536)


def amplified(rng: random.Random, target: Target) -> bytes | Call:
    """One request over HTTP or gRPC."""
    return rng.choice(KINDS)(rng, target)


def _post(target: Target, body: bytes, headers: bytes = b"content-type: application/json\r\n") -> bytes:
    path = f"/v2/models/{target.model}/infer".encode()
    return b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (path, headers, len(body), body)


def _binary(target: Target, document: Any, data: bytes) -> bytes:
    head = json.dumps(document).encode()
    return _post(target, head + data, b"inference-header-content-length: %d\r\n" % len(head))


def _entry(target: Target, **changes: Any) -> dict[str, Any]:
    entry = {"name": target.tensor, "datatype": "FP32", "shape": list(target.shape), "data": [0.5] * target.elements}
    return entry | changes


def _document(target: Target, *inputs: dict[str, Any], **rest: Any) -> bytes:
    return json.dumps({"inputs": inputs or [_entry(target)], **rest}).encode()


def _shapes(rng: random.Random, target: Target) -> bytes:
    size = rng.choice((*LARGE, 0, 1, -1))
    shape = [size] * rng.choice((2, 9, 300, 5_000, 20_000))
    return _post(target, _document(target, _entry(target, shape=shape, data=[])))


def _strings(rng: random.Random, target: Target) -> bytes:
    count = rng.choice(SIZES)
    name = rng.choice((target.tensor, "image", "x"))
    entry = _entry(target, name=name, datatype="BYTES", shape=[rng.choice((1, count, 2**63 - 1))])
    if rng.random() < 0.5:
        return _post(target, _document(target, entry | {"data": [""] * min(count, 1 << 17)}))
    del entry["data"]
    return _binary(target, {"inputs": [entry | {"parameters": {"binary_data_size": 4 * count}}]}, bytes(4 * count))


def _outputs(rng: random.Random, target: Target) -> bytes:
    asked: dict[str, Any] = {"name": target.output}
    if rng.random() < 0.5:
        asked["parameters"] = {"classification": rng.choice((1, 1000, *LARGE))}
    return _post(target, _document(target, outputs=[asked] * rng.choice((1, 2, 3, 300, 10_000))))


def _numbers(rng: random.Random, target: Target) -> bytes:
    item = rng.choice((b"0.123456789", b"1", b"[1]", b"[[1]]", b"true", b"null", b'""', b"{}", b"1e308"))
    count = rng.choice(SIZES) // len(item)
    head = json.dumps(_entry(target, shape=[1, rng.choice((count, target.elements))], data=[])).encode()[:-2]
    return _post(target, b'{"inputs":[%b%b]}]}' % (head, b",".join([item] * count)))


def _many(rng: random.Random, target: Target) -> bytes:
    count = rng.choice((1, 100, 3_000))
    dice = rng.randrange(4)
    if dice == 0:
        return _post(target, _document(target, *[_entry(target, shape=[1], data=[1])] * count))
    if dice == 1:
        return _post(target, _document(target, parameters={f"p{index}": index for index in range(10 * count)}))
    if dice == 2:
        return _post(target, _document(target, id="x" * 300 * count))
    return _post(target, _document(target, _entry(target, parameters={"data": [[]] * 10 * count})))


def _nested(rng: random.Random, target: Target) -> bytes:
    depth = rng.choice((30, 1_000, 100_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"data":[', b"]}"), (b'{"a":', b"}")))
    text = opening * depth + rng.choice((b"1", b"")) + closing * rng.choice((0, depth))
    return _post(target, rng.choice((b"%b", b'{"inputs":[{"data":%b}]}', b'{"inputs":%b}')) % text)


def _headers(rng: random.Random, target: Target) -> bytes:
    body = _document(target, id="x" * rng.choice(SIZES))
    header = rng.choice((b"a:\r\n", b"x-long: %b\r\n" % (b"y" * 1000), b"x: %b\r\n" % (b"y" * 100_000)))
    count = rng.choice(SIZES) // len(header) + 1
    return _post(target, body) + b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n" + header * count + b"\r\n"


def _chunks(rng: random.Random, target: Target) -> bytes:
    path = f"/v2/models/{target.model}/infer".encode()
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" % path
    chunk = rng.choice((b"1\r\n1\r\n", b"1;%b\r\n1\r\n" % (b"e" * 100), b"0001\r\n1\r\n"))
    return (
        head
        + chunk * (rng.choice(SIZES) // len(chunk) + 1)
        + b"0\r\n"
        + b"t: 1\r\n" * rng.choice((0, 10_000))
        + b"\r\n"
    )


def _ahead(rng: random.Random, _: Target) -> bytes:
    requests = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n" * rng.choice((2, 100, 5_000))
    return requests + rng.choice((b"", b"\0\1\2", b"GET /"))


def _image(rng: random.Random, target: Target) -> bytes:
    """A PNG of few bytes and many pixels."""
    width, height = rng.choice(((1, 60_000), (60_000, 1), (8_000, 8_000), (3_000_000, 1), (2**31 - 1, 2**31 - 1)))
    rows = min(height, 1_000)
    data = zlib.compress(b"\0" * min((width + 1) * rows, 1 << 22), 9)
    ihdr = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", ihdr), (b"IDAT", data), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return _post(target, png, b"content-type: image/png\r\n")


def _field(number: int, data: bytes) -> bytes:
    size, prefix = len(data), b""
    while size > 127:
        prefix += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + prefix + bytes([size]) + data


def _call(target: Target, message: bytes, metadata: tuple[tuple[str, str], ...] = ()) -> Call:
    name = pb.ModelInferRequest(model_name=target.model).SerializeToString()
    return Call(f"/{SERVICE}/ModelInfer", name + message, metadata)


def _rpc_fields(rng: random.Random, target: Target) -> Call:
    """Two bytes on the wire for each object."""
    count = rng.choice(SIZES) // 2
    inner = _field(rng.choice((4, 5, 6, 7)), b"") * count
    nested = _field(5, _field(rng.choice((3, 4)), b"") * count)
    contents = _field(5, _field(5, _field(rng.choice((1, 2, 3, 6, 8)), b"") * count))
    return _call(target, rng.choice((inner, nested, contents)))


def _rpc_packed(rng: random.Random, target: Target) -> Call:
    numbers = bytes(rng.choice(SIZES))
    packed = rng.choice((_field(3, numbers), _field(5, _field(rng.choice((1, 2, 3, 4, 5, 6, 7)), numbers))))
    return _call(target, _field(5, _field(1, target.tensor.encode()) + _field(2, b"INT64") + packed))


def _rpc_large(rng: random.Random, target: Target) -> Call:
    message = pb.ModelInferRequest(raw_input_contents=[bytes(4 * rng.choice(SIZES))], id="x" * rng.choice(SIZES))
    shape = rng.choice(([1, 2**62], [2**62] * 5_000, list(target.shape)))
    message.inputs.add(name=target.tensor, datatype=rng.choice(("FP32", "BYTES", "UINT8")), shape=shape)
    for _ in range(rng.choice((0, 3, 5_000))):
        asked = message.outputs.add(name=target.output)
        asked.parameters["classification"].int64_param = rng.choice((0, 10**9))
    metadata = (("x-many", "y" * rng.choice((1, 5_000, 100_000))),) if rng.random() < 0.3 else ()
    return _call(target, message.SerializeToString(), metadata)


KINDS: tuple[Callable[[random.Random, Target], bytes | Call], ...] = (
    *(_shapes, _strings, _outputs, _numbers, _many, _nested, _headers, _chunks, _ahead, _image),
    *(_rpc_fields, _rpc_packed, _rpc_large),
)
