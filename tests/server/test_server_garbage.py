"""What a request or connection leaves behind: nothing that only the garbage collector would find.

A full collection stops the event loop, for longer the more there is to find.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from engine_world import bad_item
from test_server_arrival import Served, UnnamedCall
from virtual_time import VirtualLoop, run_virtual

from sponge_server import collector
from sponge_server.collector import KEPT_BYTES, give_back_regularly, spare_what_stays
from sponge_server.lifecycle import Lifecycle, Loaded
from sponge_server.observability.metrics import Metrics
from sponge_server.protocol.grpc_server import GrpcServer
from sponge_server.protocol.grpc_service import SERVICE, inference_handler
from sponge_server.protocol.http_app import data_app
from sponge_server.protocol.http_connection import HttpLimits
from sponge_server.protocol.http_server import HttpServer, listen
from sponge_server.protocol.oip import InferRequest
from sponge_server.protocol.problems import ProblemError
from sponge_server.protocol.rest import RestEndpoint

TIMES = 5
HEALTH = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


async def left_behind(act: Callable[[], Awaitable[None]]) -> Counter[str]:
    """Objects of ours that only a collection finds, by name, after `act` was done several times."""
    await act()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(TIMES):
            await act()
        gc.collect()
        kinds = [type(found) for found in gc.garbage]
        return Counter(kind.__name__ for kind in kinds if kind.__module__.startswith(("sponge_", "uvicorn")))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (HEALTH, True),
        (HEALTH * 50, True),
        (HEALTH[:-2], False),
        (b"", False),
        (b"\0\1\2\r\n\r\n", True),
        (CHUNKED + b"1\r\n1\r\nzz\r\n", True),
        (CHUNKED + b"1\r\n1\r\n", True),
    ],
)
async def test_an_http_connection_is_gone_when_it_has_ended(sent: bytes, answered: bool) -> None:
    loaded: Loaded[object] = Loaded(Lifecycle(["m"], phase="ready"))
    endpoint = RestEndpoint(loaded, Metrics(), data_app(loaded))  # type: ignore[arg-type]
    server = HttpServer(endpoint, listen("127.0.0.1", 0, "--http-port"), HttpLimits(30, 30, 30, 100, 100))
    await server.start()

    async def connect() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        if answered:
            await reader.readexactly(12)
        else:
            while not server.connections:  # noqa: ASYNC110 - what is waited for is in the kernel
                await asyncio.sleep(0.001)
        writer.close()
        while server.connections:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)  # what was sent ahead is answered to nobody

    async with asyncio.timeout(30):
        assert not await left_behind(connect)
    await server.stop(0)


@pytest.mark.parametrize(
    ("method", "message"), [("ModelInfer", b"x"), ("ModelReady", b"\x0b\x0b"), ("ServerLive", b"")]
)
async def test_a_grpc_call_is_gone_when_it_was_answered(method: str, message: bytes) -> None:
    loaded: Loaded[object] = Loaded(Lifecycle(["m"], phase="ready"))
    server = GrpcServer(inference_handler(loaded, Metrics()), "127.0.0.1", 0, max_connections=10)  # type: ignore[arg-type]
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        ask: Any = channel.unary_unary(f"/{SERVICE}/{method}")

        async def call() -> None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await ask(message, timeout=20)
            await asyncio.sleep(0.01)

        assert not await left_behind(call)
    await server.stop(0)


def test_a_request_that_the_model_rejects_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnnamedCall, "decode", lambda *_: InferRequest(tensors=bad_item().tensors))

    async def scenario(loop: VirtualLoop) -> Counter[str]:
        served = Served(loop)

        async def ask() -> None:
            try:
                await served.ask(0.0)
            except ProblemError as problem:
                problem.forget()  # as the adapters do

        return await left_behind(ask)

    assert not run_virtual(scenario)


def test_what_is_there_at_the_start_is_not_looked_at_again() -> None:
    ours = [[] for _ in range(1000)]  # type: ignore[var-annotated]
    try:
        spare_what_stays()
        assert gc.get_freeze_count() > len(ours)
        assert len(gc.get_objects()) < len(ours)
    finally:
        gc.unfreeze()


async def test_memory_goes_back_each_time_that_it_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "LOOK_EVERY_S", 0.001)
    least, kept = 100 << 20, 101 << 20
    held, looks, given = least, 0, 0

    def look() -> int:
        nonlocal looks
        looks += 1
        return held

    def give() -> None:
        nonlocal held, given
        held, given = kept, given + 1

    async def until_looked_at(times: int) -> None:
        async with asyncio.timeout(20):
            while looks < times:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.001)

    giving = asyncio.create_task(give_back_regularly(look, give))
    await until_looked_at(1)
    for number, before in enumerate((least, kept)):
        held = before + KEPT_BYTES
        await until_looked_at(looks + 6)
        assert given == number
        held += 1
        await until_looked_at(looks + 6)
        assert (given, held) == (number + 1, kept)
    giving.cancel()
