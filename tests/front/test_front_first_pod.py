"""The real Envoy holds a request for a service without pods, and sends it to the first one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from bench.live_front import start_envoy

from sponge_cluster.layout import free_port
from sponge_core.routing.rules.least import LeastQueue
from sponge_front.endpoint_slices import ApiAccess
from sponge_front.envoy_config import picker_socket
from sponge_front.ext_proc import PickerServer
from sponge_front.files import prepare, write_endpoints
from sponge_front.metrics import FrontMetrics
from sponge_front.picker import Picker
from sponge_front.pods import Pod
from sponge_front.settings import EnvoySettings
from sponge_front.waker import Waker

pytestmark = pytest.mark.slow

STARTS_IN_S = 1.0
"""Many times what Envoy waits for the picker otherwise."""


async def until_ready(session: aiohttp.ClientSession, port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/ready") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


async def serve(port: int, answer: Callable[[web.Request], Awaitable[web.Response]]) -> web.AppRunner:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


async def test_a_request_waits_for_the_first_pod(tmp_path: Path) -> None:
    clock = asyncio.get_running_loop().time
    settings = EnvoySettings(tmp_path, free_port(), free_port(), free_port(), host="127.0.0.1")
    prepare(settings)
    picker = Picker("front", LeastQueue(lambda: 0.0), clock=clock, wall_clock=clock)
    pod = Pod("a", "127.0.0.1", free_port(), free_port(), free_port())
    runners = []

    async def served(_: web.Request) -> web.Response:
        return web.Response(text="served")

    async def start_pod() -> None:
        await asyncio.sleep(STARTS_IN_S)
        runners.append(await serve(pod.http_port, served))
        picker.keep([pod])
        write_endpoints(tmp_path, [pod])
        waker.keep([pod])

    async def woken(_: web.Request) -> web.Response:
        starting.append(asyncio.create_task(start_pod()))
        return web.json_response({})

    starting: list[asyncio.Task[None]] = []
    api_port = free_port()
    runners.append(await serve(api_port, woken))
    with (tmp_path / "log").open("wb") as log:
        envoy = start_envoy(tmp_path, log)
        try:
            async with aiohttp.ClientSession() as session:
                waker = Waker(session, ApiAccess(f"http://127.0.0.1:{api_port}", "here"), "here", "demo")
                async with PickerServer(picker, FrontMetrics(), f"unix:{picker_socket(tmp_path)}", waker):
                    await until_ready(session, settings.status_port)
                    url = f"http://127.0.0.1:{settings.http_port}/v2/models/m/infer"
                    async with session.post(url, json={}, headers={"x-sponge-slo-ms": "20000"}) as answer:
                        assert (answer.status, await answer.text()) == (200, "served")
            assert len(starting) == 1
        finally:
            envoy.kill()
            envoy.wait()
            for runner in runners:
                await runner.cleanup()
