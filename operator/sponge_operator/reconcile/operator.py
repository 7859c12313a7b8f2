"""The whole operator: opens what all services share, runs a reconciler for each, and passes events on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from sponge_core.errors import SpongeError
from sponge_operator.autoscale.decision_log import DecisionLog
from sponge_operator.autoscale.resizer import ResizeBudget
from sponge_operator.clients.kube import Kube
from sponge_operator.clients.pods import PodCache
from sponge_operator.clients.server import ControlClient
from sponge_operator.context import Context, Events, EventType
from sponge_operator.metrics import Metrics
from sponge_operator.node.coordinator import NodeCoordinator
from sponge_operator.reconcile.service import ServiceReconciler
from sponge_operator.resources.manifests import SERVICE_LABEL
from sponge_operator.settings import OperatorSettings
from sponge_system.logs import event

__all__ = ["Operator"]

log = logging.getLogger("sponge.operator")


class Operator:
    """All services of one operator process; use as an async context manager."""

    def __init__(self, settings: OperatorSettings) -> None:
        self.settings = settings
        self._reconcilers: dict[str, ServiceReconciler] = {}
        self._pods = PodCache(on_change=self._pods_changed)
        self._stack = contextlib.AsyncExitStack()
        self._context: Context | None = None

    async def __aenter__(self) -> Operator:
        """Opens the connections, the decision log and the metrics port. Raises SpongeError if one fails."""
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _open(self) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        loop, metrics = asyncio.get_running_loop(), Metrics(registry)
        kube = await self._stack.enter_async_context(Kube())
        self._context = Context(
            settings=self.settings,
            kube=kube,
            control=await self._stack.enter_async_context(ControlClient()),
            pods=self._pods,
            nodes=NodeCoordinator(kube, self._pods, metrics, loop.time),
            metrics=metrics,
            decision_log=self._stack.enter_context(DecisionLog(self.settings.decision_log)),
            budget=ResizeBudget(self.settings.resizes_per_s),
            clock=loop.time,
            wall=time.time,
        )
        if self.settings.metrics_port:
            try:
                server, _ = start_http_server(self.settings.metrics_port, registry=registry)
            except OSError as error:
                raise SpongeError(
                    f"--metrics-port {self.settings.metrics_port}: {error.strerror}; choose another"
                ) from None
            self._stack.callback(server.shutdown)
        await self._context.kube.check_crd()

    async def run_service(
        self,
        body: Mapping[str, Any],
        post: Callable[[EventType, str, str], None],
        stopped: Callable[[], Awaitable[bool]],
    ) -> None:
        """Runs one service until `stopped` returns; its result says whether the service was deleted.

        Raises:
            SpongeError: the manifest cannot be read.
        """
        if self._context is None:
            raise RuntimeError("the operator was not started")
        reconciler = ServiceReconciler(self._context, Events(post, self._context.clock), body)
        self._reconcilers[reconciler.key] = reconciler
        event(log, "service.started", service=reconciler.key)
        try:
            if await reconciler.run(stopped):
                await reconciler.restore()
        finally:
            del self._reconcilers[reconciler.key]
            event(log, "service.stopped", service=reconciler.key)

    def service_seen(self, namespace: str, name: str) -> None:
        """Call when a SpongeService has changed."""
        if (reconciler := self._reconcilers.get(f"{namespace}/{name}")) is not None:
            reconciler.wake()

    def pod_seen(self, pod: Mapping[str, Any], *, gone: bool) -> None:
        """Call when a pod of a service has changed."""
        if gone:
            self._pods.remove(pod)
        else:
            self._pods.update(pod)

    def deployment_seen(self, deployment: Mapping[str, Any], *, gone: bool) -> None:
        """Call when the Deployment of a service has changed."""
        metadata = deployment["metadata"]
        reconciler = self._reconcilers.get(f"{metadata['namespace']}/{metadata['labels'][SERVICE_LABEL]}")
        if reconciler is not None:
            reconciler.deployment_seen(None if gone else metadata["generation"])

    def _pods_changed(self, key: str) -> None:
        if (reconciler := self._reconcilers.get(key)) is not None:
            reconciler.wake()
