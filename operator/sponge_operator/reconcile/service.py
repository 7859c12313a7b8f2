"""Reconciles one SpongeService: keeps its children, runs a controller for each pod, and keeps its status up to date.

Level-triggered: whatever event wakes it, it compares the present state with the desired one. A step that fails is
counted, logged and told; the steps after it run all the same, and so do the controllers of the pods.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sponge_core.errors import SpongeError
from sponge_operator.clients.kube import ApiError
from sponge_operator.clients.tokens import Tokens
from sponge_operator.clients.trust import Trust
from sponge_operator.context import Context, Events
from sponge_operator.reconcile.attainment import Attainment
from sponge_operator.reconcile.front import FrontKeeper
from sponge_operator.reconcile.pods import ServicePods
from sponge_operator.reconcile.scaling import ServiceScaling
from sponge_operator.reconcile.status_writer import StatusWriter
from sponge_operator.reconcile.workload import Workload
from sponge_operator.resources.conditions import front_ready, ready_fronts, ready_pods
from sponge_operator.resources.model import SpongeService, parse_service, woken_at
from sponge_operator.resources.obstacles import Obstacle
from sponge_operator.resources.source_plan import SourcePlan
from sponge_operator.resources.status import cold_start_of
from sponge_operator.resources.status_input import StatusInput
from sponge_system.logs import event

__all__ = ["ServiceReconciler"]

log = logging.getLogger("sponge.operator")

GAP_S = 0.05
"""Between two passes: events come in crowds."""

RETRY_S = 5.0
"""Before a step that failed is tried again."""

FIRST_ACCESS_S, LAST_ACCESS_S = 5.0, 60.0
"""Before the Secrets of a server that is not reached are read again; doubles with each time."""


class ServiceReconciler:
    """One service.

    Args:
        body: the SpongeService; the caller keeps it up to date.

    Raises:
        SpongeError: the manifest cannot be read.
    """

    def __init__(self, context: Context, events: Events, body: Mapping[str, Any]) -> None:
        self._context = context
        self._events = events
        self._body = body
        self._service = service = self._parse()
        self._parsed_from = self._source()
        self.key = service.key
        self._tokens = Tokens()
        self._trust = Trust()
        self._access_at = 0.0
        self._access_looks = 0
        self._woken = asyncio.Event()
        self._workload = Workload(context.kube, service, context.settings, self._tokens, self._trust)
        self._front = FrontKeeper(context.kube, service, context.settings)
        self._pods = ServicePods(context, events, self._driven_by, self._tokens, self._trust, self._woken.set)
        self._scaling = ServiceScaling(context, events, cold_start_of(body.get("status") or {}))
        self._status = StatusWriter(context, events, service.namespace, service.name)
        self._attainment = Attainment()
        self._counted: set[str] = set()
        self._unreadable: Obstacle | None = None
        self._fault: Obstacle | None = None
        self._due_at = float("-inf")

    def wake(self) -> None:
        """Call when the service or one of its pods has changed."""
        before = self._service
        self._read()
        self._pods.changed(is_edited=self._service != before)
        self._woken.set()

    def service_seen(self) -> None:
        """Call when the service has changed; of its status others write only that somebody waits for a pod."""
        if self._source() != self._parsed_from:
            self.wake()
            self._look_at_number()  # somebody may wait for the first pod

    def child_seen(self, kind: str, child: Mapping[str, Any] | None) -> None:
        """Call when a child has changed; a change by others is undone at once. None: it is gone."""
        self._workload.seen(kind, child)
        self._woken.set()

    def front_seen(self, kind: str, child: Mapping[str, Any] | None) -> None:
        """The same for an object of the front."""
        self._front.seen(kind, child)
        self._woken.set()

    def tick(self, now: float) -> None:
        """Call every second or so: wakes the service if something is due that no event tells."""
        is_due = self._look_at_number()  # at every call, because it adds up what is left undone
        if is_due or now >= self._due_at or self._pods.has_news():
            self._woken.set()

    def _look_at_number(self) -> bool:
        """Looks whether the number of pods should be another; returns whether something is due."""
        service = self._driven_by()
        if service.spec.replicas.is_fixed and self._scaling.seen is None:
            return False
        return self._scaling.look(service, self._workload.deployment, self._pods.views())

    async def run(self, stopped: Callable[[], Awaitable[bool]]) -> bool:
        """Runs until `stopped` returns; returns its result."""
        stopping = asyncio.ensure_future(stopped())
        try:
            while not stopping.done():
                self._woken.clear()
                await self._pass()
                await asyncio.wait({stopping}, timeout=GAP_S)
                waking = asyncio.create_task(self._woken.wait())
                await asyncio.wait({stopping, waking}, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
            return stopping.result()
        finally:
            stopping.cancel()
            await self._pods.stop()
            self._context.metrics.forget_service(self._service.namespace, self._service.name)

    async def restore(self) -> None:
        """Lets go of every pod and restores its startup size, because nothing resizes it from now on."""
        await self._pods.restore()

    async def fall_back(self) -> None:
        """Lets go of every pod, which has at least `cpu.fallback` from then on, because no operator follows."""
        await self._pods.fall_back()

    async def _pass(self) -> None:
        self._fault = None
        for step in (
            self._follow_number,
            self._keep_children,
            self._keep_front,
            self._follow_access,
            self._follow_pods,
            self._write_status,
        ):
            try:
                await step()
            except Exception as error:  # noqa: BLE001 - whatever it is, the other steps go on
                self._failed(step.__name__.strip("_"), error)
        self._due_at = self._next_due()

    def _failed(self, step: str, error: Exception) -> None:
        log.exception("reconcile.failed service=%s step=%s", self.key, step)
        self._context.metrics.faults.labels(step).inc()
        self._fault = Obstacle("InternalError", f"{step}: {error!r}; its traceback is in the operator's log")
        self._events.emit("Warning", "InternalError", self._fault.message, about=step)

    def _next_due(self) -> float:
        now = self._context.clock()
        due = [self._workload.due_at(), self._front.due_at(), self._pods.due_at(), self._status.due_at]
        if self._fault is not None:
            due.append(now + RETRY_S)
        if not self._pods.all_reached:
            due.append(max(now, self._access_at))
        if self._attainment.percent() is not None:
            due.append(now + self._context.settings.status_interval_s)  # the window moves on
        return min(due)

    def _read(self) -> None:
        """Takes over an edit, at once, so that the pods are sized by it."""
        source = self._source()
        if source == self._parsed_from:
            return
        try:
            self._service, self._unreadable = self._parse(), None
        except SpongeError as error:
            self._unreadable = Obstacle("InvalidSpec", str(error))
            self._events.emit("Warning", "InvalidSpec", str(error))
        self._parsed_from = source

    def _source(self) -> object:
        metadata = self._body["metadata"]
        annotations, end = dict(metadata.get("annotations") or {}), metadata.get("deletionTimestamp")
        return metadata.get("generation"), annotations, end, woken_at(self._body)

    def _parse(self) -> SpongeService:
        settings = self._context.settings
        return parse_service(self._body).with_defaults(settings.tls_secret, settings.api_keys_secret)

    def _driven_by(self) -> SpongeService:
        """The service as its pods are sized: while another autoscaler changes them, they are not resized."""
        held = self._context.rivals.of(self.key) is not None
        return self._service.model_copy(update={"pause": "true"}) if held else self._service

    def _may_apply(self) -> bool:
        """Whether to apply objects: not for a service that is being deleted, whose children may be left as orphans."""
        return self._unreadable is None and not self._body["metadata"].get("deletionTimestamp")

    # --- the steps of a pass -----------------------------------------------------------------------------------------

    async def _follow_number(self) -> None:
        number = await self._scaling.carry_out(self._service, self._pods.views())
        if number is not None:
            self._workload.scale(number)

    async def _keep_children(self) -> None:
        if not self._may_apply():
            return
        conflict = self._context.rivals.of(self.key)
        if conflict is not None:
            self._events.emit("Warning", "Conflict", conflict, about=conflict)
        before, plan = self._workload.obstacle, self._workload.plan
        await self._pods.follow(self._workload.deployment)  # the source goes by what is known of them
        now, states = self._context.clock(), self._pods.states()
        await self._workload.keep(self._service, now, states, held=conflict is not None)
        self._announce_source(plan, self._workload.plan)
        self._announce(before, self._workload.obstacle)

    async def _keep_front(self) -> None:
        if not self._may_apply():
            return
        before = self._front.obstacle
        await self._front.keep(self._service, self._context.clock())
        self._announce(before, self._front.obstacle)

    def _announce(self, before: Obstacle | None, obstacle: Obstacle | None) -> None:
        """Logs and reports an obstacle that is new."""
        if obstacle is None or obstacle == before:
            return
        reason, message = obstacle.reason, obstacle.message
        event(log, "apply.failed", logging.WARNING, service=self.key, reason=reason, message=message)
        if reason == "NameTaken":
            self._events.emit("Warning", "NameTaken", message, about=message)
        elif reason == "ViolatesPodSecurity":
            self._events.emit("Warning", "ViolatesPodSecurity", message, about=message)
        elif reason == "ApplyFailed":
            self._events.emit("Warning", "ApplyFailed", message)
        elif reason == "InternalError":
            self._context.metrics.faults.labels("keep_child").inc()
            self._events.emit("Warning", "InternalError", message, about="keep_child")

    def _announce_source(self, before: SourcePlan | None, plan: SourcePlan | None) -> None:
        """Tells the steps of a change of the model's source."""
        if plan is None or plan == before:
            return
        source = self._service.spec.model.source
        if plan.rolls:
            event(log, "source.rolls", service=self.key, source=source, why=plan.rolls)
            message = f"pods are replaced until every one serves {source}: {plan.rolls}"
            self._events.emit("Normal", "SourceRolls", message, about=source)
        elif plan.change is not None and plan.change.reason == "LoadFailed":
            self._events.emit("Warning", "LoadFailed", plan.change.message, about=source)
        elif plan.load is not None and plan.change is not None:
            self._events.emit("Normal", "SourceLoading", plan.change.message, about=f"{plan.load} {source}")
        elif before is not None and before.load is not None and plan.change is None:
            self._events.emit("Normal", "SourceLive", f"every pod serves {source}; none was replaced", about=source)

    async def _follow_access(self) -> None:
        """Reads token and certificate again while a server is not reached: it may have others, or wait for them."""
        now = self._context.clock()
        if self._pods.all_reached:
            self._access_looks = 0
            return
        if now < self._access_at:
            return
        self._access_at = now + min(LAST_ACCESS_S, FIRST_ACCESS_S * 2**self._access_looks)
        self._access_looks += 1
        with contextlib.suppress(ApiError):
            await self._workload.learn_access(self._service)

    async def _follow_pods(self) -> None:
        await self._pods.follow(self._workload.deployment)
        if (plan := self._workload.plan) is not None:
            self._pods.want_source(plan.load, self._service.spec.model.source)
        await self._pods.forget_lost()

    async def _write_status(self) -> None:
        present = self._body.get("status") or {}
        try:
            await self._status.write(self._found(), present)
        except Exception as error:
            message = f"the status cannot be told: {error!r}"
            await self._status.write_broken("InternalError", message, present, self._service.generation)
            raise

    def _found(self) -> StatusInput:
        context, workload, states = self._context, self._workload, self._pods.states()
        now, names = context.clock(), {state.name for state in states}
        for state in states:
            if state.snapshot is not None:
                self._attainment.observe(now, state.name, state.snapshot.outcomes)
        for gone in self._counted - names:
            self._attainment.forget(gone)
        self._counted = names
        target = context.metrics.slo_target.labels(self._service.namespace, self._service.name)
        target.set(self._service.spec.slo.target / 100)
        found = StatusInput(
            service=self._service,
            pods=states,
            deployment=workload.deployment,
            attainment=self._attainment.percent(),
            trouble=self._fault or self._unreadable or workload.obstacle or self._front.obstacle,
            front_trouble=self._front.obstacle,
            front_secret_trouble=self._front.secret_trouble,
            front=self._front.deployment,
            is_current=self._unreadable is None and workload.is_current,
            missing_profile=workload.missing_profile,
            secret_trouble=workload.secret_trouble,
            conflict=context.rivals.of(self.key),
            unable=context.unable(),
            now=context.wall(),
            scaling=self._scaling.seen,
            last_scaling=self._scaling.last,
            source_change=None if workload.plan is None else workload.plan.change,
        )
        self._measure_pods(found)
        return found

    def _measure_pods(self, found: StatusInput) -> None:
        metrics, labels = self._context.metrics, (self._service.namespace, self._service.name)
        counts = {"wanted": found.wanted, "present": len(found.pods), "serving": ready_pods(found)}
        for state, count in counts.items():
            metrics.replicas.labels(*labels, state).set(count)
        metrics.full_nodes.labels(*labels).set(len(found.full_nodes))
        front, (is_ready, reason, _) = self._service.spec.front, front_ready(found)
        if front is None:
            metrics.forget_front(*labels)
        else:
            metrics.set_front(*labels, front.replicas, ready_fronts(found), None if is_ready == "True" else reason)
        if found.scaling is not None:
            metrics.cold_start.labels(*labels).set(found.scaling.cold_start_s)
