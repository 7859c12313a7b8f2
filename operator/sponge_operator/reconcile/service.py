"""Reconciles one SpongeService: applies its children, runs a controller for each pod, and keeps its status up to date.

Level-triggered: whatever event wakes it, it compares the present state with the desired one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sponge_core.errors import SpongeError
from sponge_operator.autoscale.letting_go import let_go
from sponge_operator.autoscale.pod_controller import PodController
from sponge_operator.autoscale.pod_state import PodState, is_in_service, starting, startup_of
from sponge_operator.autoscale.pod_target import PodTarget
from sponge_operator.autoscale.resizer import restore
from sponge_operator.clients.kube import ApiError
from sponge_operator.clients.server import ServerError
from sponge_operator.clients.trust import Trust
from sponge_operator.context import Context, Events
from sponge_operator.reconcile.workload import Workload, apply_workload, find_conflict, learn_certificate
from sponge_operator.resources.model import SpongeService, parse_service
from sponge_operator.resources.status import Attainment, StatusInput, build_status, substance
from sponge_system.logs import event

__all__ = ["ServiceReconciler"]

log = logging.getLogger("sponge.operator")

PASS_S = 0.5
"""Between two passes without an event, because ages and attainment change by themselves."""

LOST_CHECK_S = 10.0

RETRY_S = 5.0
"""Before children that could not be applied, or a certificate of a server that is not reached, are tried again."""


class ServiceReconciler:
    """One service.

    Args:
        body: the SpongeService; the caller keeps it up to date.
    """

    def __init__(self, context: Context, events: Events, body: Mapping[str, Any]) -> None:
        self._context = context
        self._events = events
        self._body = body
        self._service = self._parse()
        self._trust = Trust()
        self._certificate_at = 0.0
        self._woken = asyncio.Event()
        self._controllers: dict[str, tuple[PodController, asyncio.Task[None]]] = {}
        self._attainment = Attainment()
        self._workload: Workload | None = None
        self._tried_generation: int | None = None
        self._apply_at = 0.0
        self._trouble: tuple[str, str] | None = None
        self._conflict: str | None = None
        self._lost_check_at = context.clock() + LOST_CHECK_S
        self._written: dict[str, Any] = {}
        self._written_at = float("-inf")

    @property
    def key(self) -> str:
        return self._service.key

    def wake(self) -> None:
        """Call when the service or one of its pods has changed."""
        before = self._service
        with contextlib.suppress(SpongeError):  # reported by the next pass
            self._service = self._parse()
        for controller, _ in list(self._controllers.values()):
            controller.pod_changed()
            if self._service != before:
                controller.wake()
        self._woken.set()

    def deployment_seen(self, generation: int | None) -> None:
        """Call when the Deployment has changed; a change by others is undone at once. None: it is gone."""
        if self._workload is not None and generation != self._workload.deployment_generation:
            self._apply_at = 0.0
            self._woken.set()

    async def run(self, stopped: Callable[[], Awaitable[bool]]) -> bool:
        """Runs until `stopped` returns; returns its result."""
        stopping = asyncio.ensure_future(stopped())
        try:
            while not stopping.done():
                await self._reconcile()
                waking = asyncio.create_task(self._woken.wait())
                await asyncio.wait({stopping, waking}, timeout=PASS_S, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                self._woken.clear()
            return stopping.result()
        finally:
            stopping.cancel()
            await self._stop_controllers(list(self._controllers))
            self._context.metrics.forget_service(self._service.namespace, self._service.name)

    async def restore(self) -> None:
        """Lets go of every pod and restores its startup size, because nothing resizes it from now on."""
        await asyncio.gather(*(self._restore(pod) for pod in self._context.pods.of_service(self.key)))

    async def _restore(self, pod: Mapping[str, Any]) -> None:
        context, metadata = self._context, pod["metadata"]
        target = PodTarget(
            context.kube,
            context.control,
            context.pods,
            context.clock,
            uid=metadata["uid"],
            name=metadata["name"],
            token=self._workload.token if self._workload is not None else "",
            trust=lambda: self._trust.context,
        )
        with contextlib.suppress(ServerError):  # it notices by itself after a while
            await let_go(target, context.control)
        if (startup := startup_of(pod)) is not None:
            await restore(target, startup)

    async def _reconcile(self) -> None:
        try:
            self._service = self._parse()
        except SpongeError as error:
            self._trouble = ("InvalidSpec", str(error))
            self._events.emit("Warning", "InvalidSpec", str(error))
        else:
            # A service that is being deleted is not applied, which would take back children that are being orphaned.
            if not self._body["metadata"].get("deletionTimestamp"):
                await self._apply_if_due()
        await self._follow_certificate()
        await self._forget_lost_pods()
        await self._follow_pods()
        await self._write_status()

    def _parse(self) -> SpongeService:
        settings = self._context.settings
        return parse_service(self._body).with_defaults(settings.tls_secret, settings.api_keys_secret)

    async def _apply_if_due(self) -> None:
        context, now = self._context, self._context.clock()
        if self._service.generation == self._tried_generation and now < self._apply_at:
            return
        self._tried_generation = self._service.generation
        try:
            self._workload = await apply_workload(context.kube, self._service, context.settings, self._trust)
            self._conflict = await find_conflict(context.kube, self._service)
        except ApiError as error:
            self._trouble = ("ApplyFailed", str(error))
            self._events.emit("Warning", "ApplyFailed", str(error), about=str(error))
            event(log, "apply.failed", logging.WARNING, service=self.key, status=error.status, message=error)
            self._apply_at = now + RETRY_S
            return
        self._trouble = None
        self._apply_at = now + context.settings.resync_s
        if self._conflict is not None:
            self._events.emit("Warning", "Conflict", self._conflict, about=self._conflict)

    async def _follow_certificate(self) -> None:
        """Reads the certificate again while a server is not reached: it may present another one already."""
        context, now = self._context, self._context.clock()
        if now < self._certificate_at or all(
            controller.state.reachable for controller, _ in self._controllers.values()
        ):
            return
        self._certificate_at = now + RETRY_S
        with contextlib.suppress(ApiError):
            await learn_certificate(context.kube, self._service, self._trust)

    async def _follow_pods(self) -> None:
        """Starts and stops controllers: one for each pod, unless the mode is Off."""
        pods = {}
        if self._workload is not None and self._service.spec.mode != "Off":
            pods = {pod["metadata"]["uid"]: pod for pod in self._context.pods.of_service(self.key)}
        await self._stop_controllers([uid for uid in self._controllers if uid not in pods], let_go=bool(self._workload))
        for uid, pod in pods.items():
            if uid in self._controllers and not self._controllers[uid][1].done():
                continue
            controller = PodController(
                self._context,
                self._events,
                service=lambda: self._service,
                uid=uid,
                name=pod["metadata"]["name"],
                token=self._workload.token if self._workload is not None else "",
                trust=lambda: self._trust.context,
                on_news=self._woken.set,
            )
            task = asyncio.create_task(controller.run(), name=f"controller of {controller.state.name}")
            task.add_done_callback(_log_end)
            self._controllers[uid] = controller, task

    async def _forget_lost_pods(self) -> None:
        """Finds pods that were deleted while the watch was interrupted."""
        context, now = self._context, self._context.clock()
        lost = [uid for uid, (controller, _) in self._controllers.items() if not controller.state.reachable]
        if not lost or now < self._lost_check_at:
            return
        self._lost_check_at = now + LOST_CHECK_S
        for uid in lost:
            pod = context.pods.get(uid)
            if pod is None:
                continue
            try:
                present = await context.kube.get("Pod", self._service.namespace, pod["metadata"]["name"])
            except ApiError:
                continue
            if present is None or present["metadata"]["uid"] != uid:
                context.pods.remove(pod)

    async def _stop_controllers(self, uids: list[str], *, let_go: bool = False) -> None:
        """Stops the controllers of these pods; `let_go`: their servers follow their quota from now on."""
        stopped = [(uid, *self._controllers.pop(uid)) for uid in uids]
        for _, controller, task in stopped:
            task.cancel()
            await asyncio.wait({task})
            self._attainment.forget(controller.state.name)
            self._context.metrics.forget_pod(self._service.namespace, self._service.name, controller.state.name)
        if let_go:
            alive = (controller for uid, controller, _ in stopped if self._context.pods.get(uid) is not None)
            # A server that is not reached notices by itself after a while.
            await asyncio.gather(*(controller.let_go() for controller in alive), return_exceptions=True)

    def _pod_states(self) -> list[PodState]:
        metrics, service = self._context.metrics, self._service
        metrics.slo_target.labels(service.namespace, service.name).set(service.spec.slo.target / 100)
        if self._service.spec.mode == "Off":
            pods = self._context.pods.of_service(self.key)
            return [
                PodState(pod["metadata"]["name"], in_service=is_in_service(pod), starting=starting(pod)) for pod in pods
            ]
        states = [controller.state for controller, _ in self._controllers.values()]
        states.sort(key=lambda state: state.name)
        now = self._context.clock()
        for state in states:
            labels = (service.namespace, service.name, state.name)
            metrics.reachable.labels(*labels).set(state.reachable)
            metrics.set_blocked(*labels, None if state.blocked is None else state.blocked.reason)
            if state.snapshot is not None and state.seen_at is not None:
                self._attainment.observe(now, state.name, state.snapshot.outcomes)
                metrics.state_age.labels(*labels).set(now - state.seen_at)
        return states

    async def _write_status(self) -> None:
        context, now = self._context, self._context.clock()
        states = self._pod_states()
        found = StatusInput(
            service=self._service,
            pods=states,
            attainment=self._attainment.percent(),
            trouble=self._trouble,
            missing_profile=self._workload.missing_profile if self._workload else None,
            missing_secret=self._workload.missing_secret if self._workload else None,
            conflict=self._conflict,
            now=context.wall(),
        )
        before = self._written or self._body.get("status") or {}
        status = build_status(found, before)
        if status == self._written:
            return
        if substance(status) == substance(before) and now - self._written_at < context.settings.status_interval_s:
            return
        try:
            await context.kube.write_status(self._service.namespace, self._service.name, status)
        except ApiError as error:
            if error.status != 404:
                event(log, "status.failed", logging.WARNING, service=self.key, status=error.status, message=error)
            self._written_at = now
            return
        self._announce(before, status)
        self._written, self._written_at = status, now

    def _announce(self, before: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Posts an event when the service becomes ready or misses its target."""
        was = {c["type"]: c["status"] for c in before.get("conditions") or ()}
        for condition in status["conditions"]:
            kind, now = condition["type"], condition["status"]
            if was.get(kind) == now:
                continue
            if kind == "Ready" and now == "True":
                self._events.emit("Normal", "Ready", condition["message"])
            if kind == "SLOAttained" and now == "False":
                self._events.emit("Warning", "SLOMissed", condition["message"])


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("controller.failed task=%s", task.get_name(), exc_info=error)
