"""Serves /healthz and /metrics of the picker."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from sponge_core.errors import SpongeError
from sponge_front.metrics import FrontMetrics

__all__ = ["StatusServer"]


class StatusServer:
    """The endpoints; use as an async context manager. An event loop that hangs answers neither."""

    def __init__(self, port: int, metrics: FrontMetrics) -> None:
        """`port`: 0 for none."""
        self._port = port
        self._metrics = metrics
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> StatusServer:
        """Raises SpongeError if the port cannot be used."""
        if not self._port:
            return self
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/metrics", self._render)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            # Without a host, on all addresses of both families.
            await web.TCPSite(self._runner, port=self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise SpongeError(f"--status-port {self._port}: {error.strerror}; choose another") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def _render(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})
