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
from sponge_operator.autoscale.resize_budget import ResizeBudget
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.clients.pods import PodCache, service_key
from sponge_operator.clients.replica_sets import ReplicaSets
from sponge_operator.clients.rivals import Rivals
from sponge_operator.clients.server import ControlClient
from sponge_operator.context import Context, Events, EventType
from sponge_operator.metrics import Metrics
from sponge_operator.node.coordinator import NodeCoordinator
from sponge_operator.reconcile.preflight import Preflight
from sponge_operator.reconcile.service import ServiceReconciler
from sponge_operator.reconcile.status_writer import StatusWriter
from sponge_operator.reconcile.succession import has_successor
from sponge_operator.settings import OperatorSettings
from sponge_system.logs import event

__all__ = ["Operator"]

log = logging.getLogger("sponge.operator")

TICK_S = 1.0


class Operator:
    """All services of one operator process; use as an async context manager."""

    def __init__(self, settings: OperatorSettings) -> None:
        self.settings = settings
        self._reconcilers: dict[str, ServiceReconciler] = {}
        self._pods = PodCache(on_change=self._wake)
        self._replica_sets = ReplicaSets()
        self._rivals = Rivals(on_change=self._wake)
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
        preflight = Preflight(kube, self.settings.namespaces, self._wake_all)
        self._context = Context(
            settings=self.settings,
            kube=kube,
            control=await self._stack.enter_async_context(ControlClient()),
            pods=self._pods,
            replica_sets=self._replica_sets,
            rivals=self._rivals,
            nodes=NodeCoordinator(kube, self._pods, metrics, loop.time),
            metrics=metrics,
            decision_log=self._stack.enter_context(DecisionLog(self.settings.decision_log)),
            budget=ResizeBudget(self.settings.resizes_per_s),
            clock=loop.time,
            wall=time.time,
            unable=lambda: preflight.problem,
        )
        if self.settings.metrics_port:
            try:
                server, _ = start_http_server(self.settings.metrics_port, registry=registry)
            except OSError as error:
                raise SpongeError(
                    f"--metrics-port {self.settings.metrics_port}: {error.strerror}; choose another"
                ) from None
            self._stack.callback(server.shutdown)
        await kube.check_crd()
        await self._find_rivals(kube)
        for work, name in ((self._tick(), "clock of all services"), (preflight.run(), "preflight")):
            task = asyncio.create_task(work, name=name)
            self._stack.callback(task.cancel)

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
        context = self._context
        try:
            reconciler = ServiceReconciler(context, Events(post, context.clock), body)
        except SpongeError as error:
            await self._refuse(context, body, post, str(error))
            raise
        self._reconcilers[reconciler.key] = reconciler
        event(log, "service.started", service=reconciler.key)
        try:
            if await reconciler.run(stopped):
                await reconciler.restore()
            elif not await has_successor(context.kube, self.settings.deployment):
                await reconciler.fall_back()
        finally:
            del self._reconcilers[reconciler.key]
            event(log, "service.stopped", service=reconciler.key)

    async def _refuse(
        self, context: Context, body: Mapping[str, Any], post: Callable[[EventType, str, str], None], message: str
    ) -> None:
        """Says in the service itself that its manifest cannot be read."""
        metadata, events = body["metadata"], Events(post, context.clock)
        events.emit("Warning", "InvalidSpec", message)
        writer = StatusWriter(context, events, metadata["namespace"], metadata["name"])
        await writer.write_broken("InvalidSpec", message, body.get("status") or {}, metadata.get("generation", 0))

    def service_seen(self, namespace: str, name: str) -> None:
        """Call when a SpongeService has changed."""
        if (reconciler := self._reconcilers.get(f"{namespace}/{name}")) is not None:
            reconciler.service_seen()

    def pod_seen(self, pod: Mapping[str, Any], *, gone: bool) -> None:
        """Call when a pod of a service has changed."""
        if gone:
            self._pods.remove(pod)
        else:
            self._pods.update(pod)

    def child_seen(self, kind: str, child: Mapping[str, Any], *, gone: bool) -> None:
        """Call when a labelled object of a kind that services own has changed."""
        if (reconciler := self._reconcilers.get(service_key(child) or "")) is not None:
            reconciler.child_seen(kind, None if gone else child)

    def replica_set_seen(self, replica_set: Mapping[str, Any], *, gone: bool) -> None:
        """Call when a labelled ReplicaSet has changed."""
        self._replica_sets.seen(replica_set, gone=gone)
        self._wake(service_key(replica_set) or "")

    def scaler_seen(self, kind: str, scaler: Mapping[str, Any], *, gone: bool) -> None:
        """Call when a HorizontalPodAutoscaler or VerticalPodAutoscaler has changed."""
        self._rivals.seen(kind, scaler, gone=gone)

    def _wake(self, key: str) -> None:
        if (reconciler := self._reconcilers.get(key)) is not None:
            reconciler.wake()

    def _wake_all(self) -> None:
        for reconciler in self._reconcilers.values():
            reconciler.wake()

    async def _tick(self) -> None:
        """One clock for all services: what ages is looked at together."""
        while True:
            await asyncio.sleep(TICK_S)
            now = asyncio.get_running_loop().time()
            for reconciler in self._reconcilers.values():
                reconciler.tick(now)

    async def _find_rivals(self, kube: Kube) -> None:
        """Knows other autoscalers before the first Deployment is applied; from then on, the watch tells."""
        for namespace in self.settings.namespaces or (None,):
            for kind in ("HorizontalPodAutoscaler", "VerticalPodAutoscaler"):
                try:
                    for scaler in await kube.list(kind, namespace):
                        self._rivals.seen(kind, scaler)
                except ApiError as error:
                    event(log, "autoscalers.unreadable", logging.WARNING, kind=kind, message=error)
