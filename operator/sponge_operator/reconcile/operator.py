"""The whole operator: opens what all services share, and runs a reconciler for each service that it is told of."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from sponge_core.resource_names import KIND
from sponge_operator.autoscale.decision_log import DecisionLog
from sponge_operator.autoscale.resize_budget import ResizeBudget
from sponge_operator.clients.event_poster import EventPoster
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.clients.pods import PodCache, service_key
from sponge_operator.clients.replica_sets import ReplicaSets
from sponge_operator.clients.rivals import Rivals
from sponge_operator.clients.server import ControlClient
from sponge_operator.context import Context
from sponge_operator.metrics import Metrics
from sponge_operator.node.coordinator import NodeCoordinator
from sponge_operator.reconcile.pods import leave_forgotten
from sponge_operator.reconcile.preflight import Preflight
from sponge_operator.reconcile.runner import ServiceRunner
from sponge_operator.reconcile.succession import has_successor
from sponge_operator.resources.front_manifests import FRONT_LABEL
from sponge_operator.resources.manifests import SERVICE_LABEL
from sponge_operator.settings import OperatorSettings
from sponge_system.logs import event

__all__ = ["Operator"]

log = logging.getLogger("sponge.operator")

TICK_S = 1.0

SWEEP_S = 20.0
"""Between two looks. Only pods found twice are restored: most pods without a service are being deleted, too."""


class Operator:
    """All services of one operator process for as long as it leads; use as an async context manager.

    Args:
        may_act: asked before each change in the cluster or of a server; None: always.
    """

    def __init__(self, settings: OperatorSettings, metrics: Metrics, may_act: Callable[[], bool] | None = None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._may_act = may_act
        self._runners: dict[str, ServiceRunner] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._pods = PodCache(on_change=self._wake)
        self._replica_sets = ReplicaSets()
        self._rivals = Rivals(on_change=self._wake)
        self._stack = contextlib.AsyncExitStack()
        self._context: Context
        self._poster: EventPoster
        self._preflight: Preflight
        self._ended = False
        self.kube: Kube

    async def __aenter__(self) -> Operator:
        """Opens the connections and the decision log. Raises SpongeError if one fails."""
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop_services()
        await self._stack.aclose()

    async def _stop_services(self) -> None:
        """Ends every loop, before the connections close and before another operator may begin."""
        for task in self._ending:
            task.cancel()
        stopping = [runner.stop() for runner in self._runners.values()]
        await asyncio.gather(*stopping, *self._ending, return_exceptions=True)

    async def _open(self) -> None:
        clock, metrics = asyncio.get_running_loop().time, self._metrics
        self.kube = kube = await self._stack.enter_async_context(Kube(may_act=self._may_act))
        self._preflight = preflight = Preflight(kube, self._settings.namespaces, self._wake_all)
        self._context = Context(
            settings=self._settings,
            kube=kube,
            control=await self._stack.enter_async_context(ControlClient(self._may_act)),
            pods=self._pods,
            replica_sets=self._replica_sets,
            rivals=self._rivals,
            nodes=NodeCoordinator(kube, self._pods, metrics, clock),
            metrics=metrics,
            decision_log=self._stack.enter_context(DecisionLog(self._settings.decision_log)),
            budget=ResizeBudget(self._settings.resizes_per_s),
            clock=clock,
            wall=time.time,
            unable=lambda: preflight.problem,
        )
        self._poster = EventPoster(kube)
        await kube.check_crd()
        await self._find_rivals(kube)

    async def run(self) -> None:
        """Does what no event asks for; never returns."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._poster.run(), name="event poster")
                group.create_task(self._tick(), name="clock of all services")
                group.create_task(self._preflight.run(), name="preflight")
                group.create_task(self._sweep(), name="sweeper")
        finally:
            self._ended = True
            if (self._may_act is None or self._may_act()) and not await has_successor(
                self.kube, self._settings.deployment
            ):
                await asyncio.gather(*(runner.leave() for runner in self._runners.values()))
            await self._stop_services()

    def service_seen(self, body: Mapping[str, Any], *, gone: bool) -> None:
        """Call when a SpongeService has changed."""
        metadata = body["metadata"]
        key, uid = f"{metadata['namespace']}/{metadata['name']}", metadata["uid"]
        runner = self._runners.get(key)
        if runner is not None and runner.uid != uid and not gone:
            self._end(key, runner)
            runner = None
        if gone:
            if runner is not None and runner.uid == uid:
                self._end(key, runner)
        elif runner is None and not self._ended:
            self._runners[key] = ServiceRunner(self._context, self._poster.post, body)
        elif runner is not None:
            runner.seen(body)

    def _end(self, key: str, runner: ServiceRunner) -> None:
        del self._runners[key]
        task = asyncio.create_task(runner.stop(), name=f"end of {key}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def pod_seen(self, pod: Mapping[str, Any], *, gone: bool) -> None:
        """Call when a pod of a service has changed."""
        if gone:
            self._pods.remove(pod)
        else:
            self._pods.update(pod)

    def child_seen(self, kind: str, child: Mapping[str, Any], *, gone: bool) -> None:
        """Call when an object of a kind that services own has changed; the label says of which, or of whose front."""
        present = None if gone else child
        if (runner := self._runners.get(service_key(child) or "")) is not None:
            runner.child_seen(kind, present)
        elif (runner := self._runners.get(service_key(child, FRONT_LABEL) or "")) is not None:
            runner.front_seen(kind, present)

    def replica_set_seen(self, replica_set: Mapping[str, Any], *, gone: bool) -> None:
        """Call when a labelled ReplicaSet has changed."""
        self._replica_sets.seen(replica_set, gone=gone)
        self._wake(service_key(replica_set) or "")

    def scaler_seen(self, kind: str, scaler: Mapping[str, Any], *, gone: bool) -> None:
        """Call when a HorizontalPodAutoscaler or VerticalPodAutoscaler has changed."""
        self._rivals.seen(kind, scaler, gone=gone)

    def _wake(self, key: str) -> None:
        if (runner := self._runners.get(key)) is not None:
            runner.wake()

    def _wake_all(self) -> None:
        for runner in self._runners.values():
            runner.wake()

    async def _tick(self) -> None:
        """One clock for all services: what ages is looked at together."""
        while True:
            await asyncio.sleep(TICK_S)
            now = asyncio.get_running_loop().time()
            for runner in list(self._runners.values()):
                runner.tick(now)

    async def _find_rivals(self, kube: Kube) -> None:
        """Knows other autoscalers before the first Deployment is applied; from then on, the watch tells."""
        for namespace in self._settings.namespaces or (None,):
            for kind in ("HorizontalPodAutoscaler", "VerticalPodAutoscaler"):
                try:
                    for scaler in await kube.list(kind, namespace):
                        self._rivals.seen(kind, scaler)
                except ApiError as error:
                    event(log, "autoscalers.unreadable", logging.WARNING, kind=kind, message=error)

    async def _sweep(self) -> None:
        """Finds what no event tells of: what went while a watch was interrupted, or while no operator ran."""
        before: set[str] = set()
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self._end_lost_services()
                before = await self._restore_forgotten_pods(before)
            except ApiError:
                continue
            except Exception:
                log.exception("sweep.failed")  # it must not end the sizing of pods
                self._metrics.faults.labels("sweep").inc()

    async def _end_lost_services(self) -> None:
        known = {key: runner.uid for key, runner in self._runners.items()}
        present: set[str] = set()
        for namespace in self._settings.namespaces or (None,):
            present |= {item["metadata"]["uid"] for item in await self.kube.list(KIND, namespace)}
        for key, uid in known.items():
            runner = self._runners.get(key)
            if uid not in present and runner is not None and runner.uid == uid:
                self._end(key, runner)

    async def _restore_forgotten_pods(self, before: set[str]) -> set[str]:
        """Gives pods their startup size whose service has gone and left them behind; returns those without one."""
        forgotten = {pod["metadata"]["uid"]: pod for pod in self._pods.without_service(self._runners)}
        for uid in before & set(forgotten):
            metadata = forgotten[uid]["metadata"]
            if await self.kube.get(KIND, metadata["namespace"], metadata["labels"][SERVICE_LABEL]) is None:
                await leave_forgotten(self._context, forgotten[uid])
        return set(forgotten)
