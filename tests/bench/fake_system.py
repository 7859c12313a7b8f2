"""A system whose server is a few lines: answers from the reference, late or with a refusal where it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from bench.serving.systems import Knobs, Launch, System, Wire
from bench.serving.workloads import DEFAULT, Served

Answering = Callable[[int, float], tuple[int, bytes, float]]
"""From the number of the input and its SLO: status, body, and seconds until the answer."""


class FakeSystem(System):
    """Speaks HTTP with the number of the input in a header; the tensor itself is sent along."""

    name = "fake"
    defaults: Knobs = {"size": 1}  # noqa: RUF012

    def __init__(self, served: Served = DEFAULT) -> None:
        super().__init__(served)
        self._numbers = {body: number for number, body in enumerate(self.workload.bodies())}

    def candidates(self, cores: float) -> list[Knobs]:
        return [{"size": size} for size in (1, 2, 3)]

    def launch(self, python: Path, port: int, knobs: Knobs, cores: float) -> Launch:
        raise NotImplementedError("tests run the server in their own loop")

    def request(self, body: bytes, slo_s: float, knobs: Knobs) -> Wire:
        headers = {"number": str(self._numbers[body]), "slo": str(slo_s)}
        return Wire("POST", "/", headers, (f"{slo_s:.6f}".encode(), body))


class FakeServer:
    """Listens on a free loopback port while in its context; counts clients that left before their answer."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self.left = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                fields = dict(line.split(": ", 1) for line in head[1:] if line)
                await reader.readexactly(int(fields["Content-Length"]))
                status, body, delay_s = self._answering(int(fields["number"]), float(fields["slo"]))
                await asyncio.sleep(delay_s)
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left += 1
        finally:
            writer.close()


def logits_of(number: int) -> np.ndarray:
    """A made-up reference: a row an input."""
    return np.full(4, number + 1, np.float32)
