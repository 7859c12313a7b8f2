"""Patient clients that keep a server saturated, in a process of their own, so that they do not delay the measurement.

Each client always has one request in flight, with a loose deadline.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from multiprocessing.sharedctypes import Synchronized
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from bench.live_server import LiveServer
from sponge_client.client import SpongeClient
from sponge_client.oip import InferBody
from sponge_client.payloads import image_bodies
from sponge_client.wire import Connection

__all__ = ["PatientClients", "photographs", "saturated_rps"]

CLIENTS = 32
SLO_S = 30.0
SETTLE_S = 3.0


def photographs(server: LiveServer) -> list[InferBody]:
    """Builds requests with one small photograph each."""

    async def made() -> list[InferBody]:
        async with SpongeClient(server.url) as client:
            return image_bodies(await client.metadata(server.model), None)

    return asyncio.run(made())


class PatientClients:
    """A context manager: the clients run inside its `with` block."""

    def __init__(self, server: LiveServer, body: InferBody, clients: int = CLIENTS) -> None:
        address = urlsplit(server.url)
        headers = "".join(f"{name}: {value}\r\n" for name, value in body.headers.items())
        # No send time in the header: the same bytes are sent repeatedly.
        head = (
            f"POST /v2/models/{server.model}/infer HTTP/1.1\r\nHost: {address.netloc}\r\n{headers}"
            f"x-sponge-slo-ms: {SLO_S * 1000:g}\r\n\r\n"
        )
        context = multiprocessing.get_context("spawn")
        self._answered, self._failed, self._stop = context.Value("q", 0), context.Value("q", 0), context.Event()
        arguments = ((address.hostname, address.port), head.encode() + body.data, clients)
        self._process = context.Process(
            target=_run, args=(*arguments, self._answered, self._failed, self._stop), daemon=True
        )

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stops sending and waits for the outstanding answers."""
        self._stop.set()
        self._process.join(SLO_S)
        self._process.terminate()

    @property
    def answered(self) -> int:
        """The number of requests answered with 200."""
        return int(self._answered.value)

    @property
    def failed(self) -> int:
        """The number of requests with any other result."""
        return int(self._failed.value)


def saturated_rps(server: LiveServer, body: InferBody, seconds: float) -> float:
    """The server's largest throughput in answers per second, measured with patient clients."""
    with PatientClients(server, body) as clients:
        while clients.answered == 0:
            time.sleep(0.05)
        time.sleep(SETTLE_S)
        began, before = time.monotonic(), clients.answered
        time.sleep(seconds)
        return (clients.answered - before) / (time.monotonic() - began)


def _run(
    address: tuple[str, int],
    request: bytes,
    clients: int,
    answered: Synchronized[int],
    failed: Synchronized[int],
    stop: multiprocessing.synchronize.Event,
) -> None:
    async def client(connection: Connection) -> None:
        while not stop.is_set():
            try:
                response = await connection.begin(request)
            except ConnectionError:
                failed.value += 1
                return
            if response.status == 200:
                answered.value += 1
            else:
                failed.value += 1

    async def run() -> None:
        loop = asyncio.get_running_loop()
        made = [await loop.create_connection(lambda: Connection(loop), *address) for _ in range(clients)]
        await asyncio.gather(*(client(connection) for _, connection in made))

    asyncio.run(run())
