"""The process of the operator: signals, ports, and the election of the one that acts; `reconcile` does the work."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from sponge_core.errors import SpongeError
from sponge_operator.clients.kube import Kube
from sponge_operator.clients.pulse import Pulses
from sponge_operator.handlers import watch, watched_paths
from sponge_operator.health import Health
from sponge_operator.leadership.leader import Leader
from sponge_operator.metrics import Metrics
from sponge_operator.reconcile.operator import Operator
from sponge_operator.settings import LeaseSettings, OperatorSettings
from sponge_system.logs import set_up
from sponge_system.network import every_interface

__all__ = ["run"]


def run(settings: OperatorSettings) -> None:
    """Runs the operator until a signal stops it.

    Raises:
        SpongeError: there is no cluster, the CRD is missing, or a port or file cannot be used.
    """
    # At `info`, kopf logs every connection and handler; what the operator does is in its own events.
    set_up(settings.log_level, "text", quiet=("kopf", "aiohttp.access") if settings.log_level == "info" else ())
    asyncio.run(_run(settings))


async def _run(settings: OperatorSettings) -> None:
    working = asyncio.current_task()
    assert working is not None
    with contextlib.suppress(asyncio.CancelledError):
        await _Process(settings, working.cancel).run()


def _on_signal(stop: Callable[[], object]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)


class _Process:
    """The parts of the process. `stop` ends it."""

    def __init__(self, settings: OperatorSettings, stop: Callable[[], object]) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._settings = settings
        self._metrics = Metrics(registry)
        self._clock = asyncio.get_running_loop().time
        self._health = Health(settings.health_port)
        self._leader: Leader | None = None
        self._stop = stop

    async def run(self) -> None:
        _on_signal(self._stop)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._health)
            self._serve_metrics(stack)
            if (lease := self._settings.lease) is None:
                self._leads(True)
                await self._act()
            else:
                await self._stand(lease, await stack.enter_async_context(Kube()))

    async def _stand(self, lease: LeaseSettings, kube: Kube) -> None:
        self._leader = Leader(kube, lease.namespace, lease.name, lease.identity, self._clock, self._leads)
        await self._leader.run(self._act)

    def _serve_metrics(self, stack: contextlib.AsyncExitStack) -> None:
        port = self._settings.metrics_port
        if not port:
            return
        try:
            server, _ = start_http_server(port, every_interface(), registry=self._metrics.registry)
        except OSError as error:
            raise SpongeError(f"--metrics-port {port}: {error.strerror}; choose another") from None
        stack.callback(server.shutdown)

    def _leads(self, leads: bool) -> None:
        self._health.leads = leads
        self._metrics.leading.set(leads)

    async def _act(self) -> None:
        settings = self._settings
        may_act = None if self._leader is None else self._leader.may_act
        async with Operator(settings, self._metrics, may_act) as operator:
            namespaces, fronts = settings.namespaces, bool(settings.front.role)
            self._health.pulses = pulses = Pulses(watched_paths(namespaces, fronts=fronts), self._clock)
            watching = watch(operator, operator.kube, pulses, namespaces, lambda: _on_signal(self._stop), fronts=fronts)
            parts = [
                asyncio.ensure_future(operator.run()),
                asyncio.ensure_future(watching),
            ]
            try:
                done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
                for part in done:
                    part.result()
            finally:
                self._health.pulses = None
                for part in parts:
                    part.cancel()
                await asyncio.wait(parts)
