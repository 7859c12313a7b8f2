"""A small server that speaks what a front asks of a pod, and answers requests well, never, or always with an error."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from aiohttp import web

from sponge_core.control_api import LatencyCoefficients
from sponge_core.routing.pod_load import PodLoad

__all__ = ["SLO_MS", "FakePod"]

LATENCY = LatencyCoefficients(gamma_s=0.005, delta_s=0.0, epsilon_s=0.0, eta_s=0.001, max_batch=8)
REPORT_S = 0.1
SLO_MS = 300
LARGEST = 64 << 20


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
    async def running(self, host: str = "127.0.0.1") -> AsyncIterator[int]:
        """Context in which it serves REST and control on one port, which it gives."""
        app = web.Application(client_max_size=LARGEST)
        app.router.add_post("/v2/models/{model}/infer", self.infer)
        app.router.add_post("/v2/repository/models/{model}/load", self.infer)
        app.router.add_get("/v2/health/ready", self.ready)
        app.router.add_get("/control/v1/load", self.load)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, host, 0).start()
        try:
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()
