"""Pods that do not do what they report, behind the real picker and Envoy: fewer requests meet them than by turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import aiohttp
import pytest
from aiohttp import web
from bench.live_front import LiveFront

from sponge_cluster.layout import free_port
from sponge_core.control_api import LatencyCoefficients
from sponge_core.routing.pod_load import PodLoad

pytestmark = pytest.mark.slow

LATENCY = LatencyCoefficients(gamma_s=0.005, delta_s=0.0, epsilon_s=0.0, eta_s=0.001, max_batch=8)
REPORT_S = 0.1
SLO_MS = 300
PATIENCE_S = 1.0
"""After so long a client gives up."""


class FakePod:
    """Reports that nothing waits. An honest one answers at once; the others do not, or only with an error."""

    def __init__(self, kind: Literal["honest", "silent", "failing"]) -> None:
        self.kind = kind
        self.asked = 0
        self.received: dict[str, int] = {}

    async def infer(self, request: web.Request) -> web.Response:
        self.asked += 1
        if sender := request.headers.get("x-sponge-front"):  # without a picker it has none
            front, _, number = sender.partition(" ")
            self.received[front] = int(number)
        if self.kind == "silent":
            await asyncio.sleep(3600)
        return web.json_response({}, status=500 if self.kind == "failing" else 200)

    async def ready(self, _: web.Request) -> web.Response:
        return web.Response()

    async def load(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                report = PodLoad(
                    now_s=asyncio.get_running_loop().time(),
                    accepting=True,
                    cores_milli=1000,
                    most_milli=1000,
                    batch_cap=8,
                    lanes=1,
                    latency=LATENCY,
                    slo_s={"": SLO_MS / 1000},
                    received=self.received,
                )
                await response.write(report.model_dump_json().encode() + b"\n")
                await asyncio.sleep(REPORT_S)
        return response

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Context in which it serves; gives it as the command line names it."""
        app = web.Application()
        app.router.add_post("/v2/models/m/infer", self.infer)
        app.router.add_get("/v2/health/ready", self.ready)
        app.router.add_get("/control/v1/load", self.load)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        try:
            yield f"127.0.0.1,{port},{free_port()},{port}"
        finally:
            await runner.cleanup()


class RestFront(LiveFront):
    """A front whose pods have no gRPC port."""

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError, KeyError):
            reporting = self.metric("sponge_front_pods_reporting")
            return (reporting, self.healthy("pods-http"), self.healthy("picker")) == (2, 2, 1)
        return False


async def ask(session: aiohttp.ClientSession, url: str) -> int:
    """The status of one request; 0 when there was no answer in time."""
    try:
        async with session.post(url, json={}, headers={"x-sponge-slo-ms": str(SLO_MS)}) as answer:
            return answer.status
    except TimeoutError:
        return 0


async def missed(session: aiohttp.ClientSession, url: str, count: int) -> int:
    """Of so many requests, one after the other, those that are not answered well."""
    return sum([await ask(session, url) != 200 for _ in range(count)])


@asynccontextmanager
async def front_before(pods: list[str], directory: Path) -> AsyncIterator[RestFront]:
    (directory / "token").write_text("secret")
    front = RestFront(pods, directory / "token", pick_timeout_ms=1000)
    await asyncio.to_thread(front.__enter__)
    try:
        yield front
    finally:
        await asyncio.to_thread(front.__exit__)


@pytest.mark.parametrize("kind", ["silent", "failing"])
async def test_a_pod_that_lies_is_avoided(tmp_path: Path, kind: Literal["silent", "failing"]) -> None:
    honest, liar = FakePod("honest"), FakePod(kind)
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with honest.running() as first, liar.running() as second, aiohttp.ClientSession(timeout=timeout) as session:
        async with front_before([first, second], tmp_path) as front:
            url = f"http://127.0.0.1:{front.http}/v2/models/m/infer"
            by_rule = await missed(session, url, 16)
            assert liar.asked >= 1, "before it was known, it was trusted"
            async with asyncio.timeout(60):
                while await missed(session, url, 30):
                    pass
            front.picker.kill()
            # From now on the pods take turns.
            by_turns = await missed(session, url, 16)
        assert 2 * by_rule <= by_turns
