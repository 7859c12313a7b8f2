"""A small real HTTP server that speaks enough of the protocol to be loaded: each test says how it answers."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

METADATA = {
    "name": "tiny",
    "versions": ["1"],
    "platform": "test",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2, 3]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
}


@dataclass
class Received:
    """One infer request as it arrived; times on the loop's clock."""

    headers: dict[str, str]
    first_byte: float
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    body: bytes = b""
    connection: int = 0


@dataclass
class Reply:
    """What to send back; `cut` closes the connection in the middle."""

    status: int = 200
    body: bytes = b'{"outputs": []}'
    delay_s: float = 0.0
    chunked: bool = False
    cut: bool = False
    close: bool = False
    headers: str = ""


class OipServer:
    """Listens on a free loopback port while in its context.

    `reply` says how a request is answered once its body is in, `early` how each is before that.
    """

    def __init__(
        self,
        reply: Callable[[Received], Reply] = lambda _: Reply(),
        metadata: object = METADATA,
        early: Reply | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._reply = reply
        self._early = early
        self._tls = tls
        self._metadata = metadata
        self.received: list[Received] = []
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._came = asyncio.Condition()

    async def has_received(self, count: int) -> None:
        """Returns once the headers of `count` requests have arrived."""
        async with self._came, asyncio.timeout(20.0):
            await self._came.wait_for(lambda: len(self.received) >= count)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self._writers.add(writer)
        try:
            while await self._exchange(reader, writer, number):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        loop = asyncio.get_running_loop()
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        if method == "GET":
            found = path.split("/")[3:] and path.split("/")[3] == "tiny"
            await self._send(writer, Reply(200 if found else 404, json.dumps(self._metadata).encode()))
            return True
        request = Received(headers, loop.time(), connection=number)
        self.received.append(request)
        async with self._came:
            self._came.notify_all()
        if self._early is not None:
            await self._send(writer, self._early)
            return False
        await self._read(reader, request, int(headers["content-length"]), loop.time)
        reply = self._reply(request)
        await asyncio.sleep(reply.delay_s)
        await self._send(writer, reply)
        return not (reply.cut or reply.close)

    @staticmethod
    async def _read(reader: asyncio.StreamReader, request: Received, length: int, clock: Callable[[], float]) -> None:
        while len(request.body) < length:
            data = await reader.read(length - len(request.body))
            if not data:
                raise ConnectionError
            request.body += data
            request.arrivals.append((clock(), len(request.body)))

    @staticmethod
    async def _send(writer: asyncio.StreamWriter, reply: Reply) -> None:
        if reply.cut:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")
            return
        head = f"HTTP/1.1 {reply.status} X\r\nserver-timing: queue;dur=1.5\r\n{reply.headers}"
        if reply.close:
            head += "connection: close\r\n"
        if reply.chunked:
            middle = len(reply.body) // 2
            writer.write(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
            for part in (reply.body[:middle], reply.body[middle:], b""):
                writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                await writer.drain()
        else:
            writer.write(f"{head}content-length: {len(reply.body)}\r\n\r\n".encode() + reply.body)
        await writer.drain()
