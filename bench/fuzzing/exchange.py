"""How the benchmarks with malformed requests reach a server: one request on a connection of its own, and its answer."""

from __future__ import annotations

import asyncio
import io
import json
import re
import urllib.request
from dataclasses import dataclass
from typing import Any

import grpc

from bench.fuzzing.http import Target

__all__ = ["Addresses", "describe", "exchange", "raw_method"]

PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Addresses:
    """Host and port of the server under test, for HTTP and gRPC."""

    http: str
    grpc: str


async def exchange(address: str, sent: bytes) -> tuple[int, bytes, bytes]:
    """The first answer that is not 1xx. Status 0 means that the connection closed without one."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        while True:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = await reader.readline()
                if not line:
                    return 0, head, b""
                head += line
            status = int(head.split(b" ", 2)[1])
            if status >= 200:
                length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
                if length is None or status < 400 or sent.startswith(b"HEAD "):
                    return status, head, b""
                return status, head, await reader.readexactly(int(length[1]))
    finally:
        writer.close()


def describe(addresses: Addresses) -> Target:
    """What a good request to the server's model `digits` looks like."""
    with urllib.request.urlopen(f"http://{addresses.http}/v2/models/digits", timeout=PATIENCE_S) as answer:
        described = json.load(answer)
    given = described["inputs"][0]
    return Target("digits", given["name"], (1, *given["shape"][1:]), described["outputs"][0]["name"], _image())


def _image() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.frombytes("L", (8, 8), bytes(range(0, 256, 4))).save(buffer, "PNG")
    return buffer.getvalue()


def raw_method(channel: grpc.aio.Channel, method: str) -> Any:
    """A call whose messages are raw bytes."""
    return channel.unary_unary(method)
