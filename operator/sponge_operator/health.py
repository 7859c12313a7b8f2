"""Serves /healthz: the process is alive, and each of its watches hears the API server."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from aiohttp import web

from sponge_core.errors import SpongeError
from sponge_operator.clients.pulse import Pulses

__all__ = ["Health"]


class Health:
    """The endpoint; use as an async context manager.

    Args:
        port: 0 for none.

    Attributes:
        leads: whether this process acts. One that waits is just as healthy.
        pulses: of the watches; None while it waits.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._runner: web.AppRunner | None = None
        self.leads = False
        self.pulses: Pulses | None = None

    async def __aenter__(self) -> Health:
        """Raises SpongeError if the port cannot be used."""
        app = web.Application()
        app.router.add_get("/healthz", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        if self._port:
            try:
                # Without a host, on all addresses of both families.
                await web.TCPSite(self._runner, port=self._port).start()
            except OSError as error:
                raise SpongeError(f"--health-port {self._port}: {error.strerror}; choose another") from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def verdict(self) -> tuple[int, dict[str, Any]]:
        """The HTTP status and the body of an answer."""
        dead = [] if self.pulses is None else self.pulses.dead()
        return 503 if dead else 200, {"alive": not dead, "leads": self.leads, "deadWatches": dead}

    async def _answer(self, _: web.Request) -> web.Response:
        status, body = self.verdict()
        return web.json_response(body, status=status)
