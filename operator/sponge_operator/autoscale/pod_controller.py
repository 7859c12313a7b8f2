"""Runs the control loop of one pod; keeps its state, metrics, events and decision log, all derived from each look."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import replace

from sponge_core.planning.decider import Recommendation
from sponge_core.quantities import cores_text
from sponge_operator.autoscale import quota_state, resize
from sponge_operator.autoscale.control_loop import ControlLoop
from sponge_operator.autoscale.decision_log import Entry
from sponge_operator.autoscale.letting_go import let_go
from sponge_operator.autoscale.look import Allocation, Look, Observation, ResizeOutcome
from sponge_operator.autoscale.memory import MemoryAction
from sponge_operator.autoscale.memory_keeper import MemoryKeeper, memory_rule
from sponge_operator.autoscale.pace import HELD
from sponge_operator.autoscale.pod_state import LastDecision, PodState, is_in_service, starting, startup_of
from sponge_operator.autoscale.pod_target import PodTarget
from sponge_operator.autoscale.profile_keeper import ProfileKeeper
from sponge_operator.autoscale.recommender import SizingSpec
from sponge_operator.autoscale.service_sizing import sizing_of, while_it_loads
from sponge_operator.autoscale.source_keeper import SourceKeeper
from sponge_operator.autoscale.target import Starting
from sponge_operator.context import Context, Events
from sponge_operator.metrics import RESIZE_OUTCOMES
from sponge_operator.node.allocation import Tenant
from sponge_operator.resources.model import SpongeService
from sponge_system.logs import event

__all__ = ["PodController"]

log = logging.getLogger("sponge.operator")

SHARED_SHOWN_S = 5.0
"""How long the status shows that other services have priority; loads come and go many times a second."""

WAIT_SHOWN_S = 1.0
"""How long a pod waits for others to shrink before its status shows it; a shrink takes some tens of milliseconds."""


RECENT = 5
"""Decisions that a pod remembers with their inputs."""


class PodController:
    """One pod; `run` until cancelled.

    Args:
        service: gives the SpongeService as it is now.
        tokens: gives those that its control port may have, the newest first.
        trust: gives the certificates to accept from it, if it speaks https.
        on_news: called when the pod's state changes in a way that the status should show at once.
    """

    def __init__(
        self,
        context: Context,
        events: Events,
        service: Callable[[], SpongeService],
        uid: str,
        name: str,
        tokens: Callable[[], tuple[str, ...]],
        trust: Callable[[], ssl.SSLContext | None],
        on_news: Callable[[], None],
    ) -> None:
        self._context = context
        self._events = events
        self._nodes = context.nodes
        self._service = service
        self._uid = uid
        self._on_news = on_news
        self._blocked: resize.Blocked | None = None
        self._shared: resize.Blocked | None = None
        self._shared_until = 0.0
        self._waits_since: float | None = None
        self._held = ""
        self._accounted_at: float | None = None
        self._target = PodTarget(
            context.kube,
            context.control,
            context.pods,
            context.clock,
            uid=uid,
            name=name,
            tokens=tokens,
            trust=trust,
        )
        self._source = SourceKeeper(
            context.control,
            context.pods,
            self._target,
            uid,
            context.clock,
            model=lambda: self._service().spec.model.name,
            is_ready=lambda: self.state.ready,
            has_room=self._has_room_for_two,
            on_change=self._source_changed,
        )
        # What of the pod makes a look worth while: other hands' sizes, its starts, whether it is in service.
        self._seen: tuple[quota_state.Observed, Starting | None, bool] = self._target.observe(None), None, False
        self._memory = MemoryKeeper(
            context.kube,
            context.pods,
            uid,
            lambda: memory_rule(self._service().spec, versions=2 if self._source.holds_two else 1),
            context.budget,
            self._memory_resized,
            lambda: self._count_as_held("rate"),
        )
        self._loop = ControlLoop(
            self._target, context.control, self, context.clock, context.settings.loop, context.budget, self._memory
        )
        self._profile = ProfileKeeper(
            context.kube, context.control, context.pods, self._target, uid, service, lambda: self.state
        )
        self.state = PodState(name)

    async def run(self) -> None:
        """Never returns."""
        keeping = [
            asyncio.create_task(self._profile.run(), name=f"profile of {self.state.name}"),
            asyncio.create_task(self._source.run(), name=f"source of {self.state.name}"),
        ]
        try:
            await self._loop.run()
        finally:
            for task in keeping:
                task.cancel()
            self._nodes.leave(self._uid)

    def pod_changed(self) -> None:
        """The pod has changed in the cache."""
        self._target.pod_changed()
        self._source.pod_changed()
        self._nodes.pod_changed(self._uid)
        pod, size = self._context.pods.get(self._uid) or {}, self._target.observe(None)
        # A size on its way is no news: the loop that has sent it waits for it.
        seen_size = self._seen[0] if isinstance(size, quota_state.InFlight) else size
        seen = seen_size, self._target.starting(), is_in_service(pod)
        if seen != self._seen:
            self._seen = seen
            self._loop.wake()

    def wake(self) -> None:
        """The service was edited: look at the server at once."""
        self._loop.wake()

    def want_source(self, source: str | None) -> None:
        """The source that the server should load beside the one that it serves; None: none."""
        self._source.want(source)

    async def let_go(self) -> None:
        """Nobody applies sizes to the server from now on; call it after `run`. Raises ServerError."""
        await let_go(self._target, self._context.control)

    # --- the loop's host ---------------------------------------------------------------------------------------------

    def spec(self) -> SizingSpec:
        spec = sizing_of(self._service())
        if self._source.holds_two:
            spec = while_it_loads(spec, startup_of(self._context.pods.get(self._uid) or {"metadata": {}}))
        return spec

    def allocate(self, observation: Observation, recommendation: Recommendation, spec: SizingSpec) -> Allocation:
        tenant = Tenant(
            self._uid,
            recommendation,
            observation.snapshot,
            observation.sizes,
            observation.current_milli or 0,
            spec.weight,
        )
        return self._nodes.allocate(tenant, self._loop.wake)

    def concluded(self, look: Look) -> None:
        if look.outcome is None or look.trouble:
            self._nodes.leave(self._uid)  # it keeps what it holds; other pods' plans no longer include it
        else:
            self._nodes.conclude(self._uid, look.outcome.kind)
        if look.observation is not None:
            self._account(look.observation)
        self._measure(look)
        if look.allocation is not None:
            self._show_allocation(look.allocation)
        elif look.recommendation is not None:
            self._shared = None
        if look.outcome is not None and isinstance(look.outcome.quota, quota_state.Idle):
            self._seen = look.outcome.quota, *self._seen[1:]  # the status that will say so is no news
        self._show_quota(look)
        if look.starting_milli is not None:
            self._show_start(look.starting_milli)
        self._record(look)
        if look.observation is None:
            self._unreachable(look.trouble)

    # --- memory ------------------------------------------------------------------------------------------------------

    def _memory_resized(self, action: MemoryAction) -> None:
        self._context.metrics.memory_resizes.labels(action.kind).inc()
        if action.message:
            self._events.emit("Warning", "MemoryResizeBlocked", f"{self.state.name}: {action.message}", self.state.name)

    def _has_room_for_two(self) -> bool:
        spec, limit = self.spec(), self._memory.limit()
        rule = memory_rule(self._service().spec, versions=2)
        return not (rule.in_place and spec.acts) or limit is None or limit.actual >= rule.most

    # --- the source --------------------------------------------------------------------------------------------------

    def _source_changed(self) -> None:
        self.state = replace(self.state, source=self._source.report, fixed_source=self._source.fixed)
        self._loop.wake()  # its size and memory follow
        self._on_news()

    # --- what is derived from a look ---------------------------------------------------------------------------------

    def _account(self, observation: Observation) -> None:
        """Takes over the snapshot, and counts the cores in force and those saved since the last look."""
        self.state = replace(
            self.state, reachable=True, trouble="", seen_at=observation.at, snapshot=observation.snapshot
        )
        current, service = observation.current_milli, self._service()
        if current is None:
            self._accounted_at = None
            return
        metrics = self._context.metrics
        metrics.actuated.labels(*self._labels()).set(current / 1000)
        if (memory := self._memory.limit()) is not None:
            metrics.memory.labels(*self._labels()).set(memory.actual)
        if self._accounted_at is not None:
            saved_milli = max(0, service.spec.cpu.max - current)
            saved_s = saved_milli / 1000 * (observation.at - self._accounted_at)
            metrics.saved.labels(service.namespace, service.name).inc(saved_s)
        self._accounted_at = observation.at

    def _measure(self, look: Look) -> None:
        metrics, labels = self._context.metrics, self._labels()
        if look.outcome is not None and look.outcome.kind in RESIZE_OUTCOMES:
            metrics.resizes.labels(*labels[:2], look.outcome.kind, _reason(look, look.outcome)).inc()
        if look.recommendation is None:
            return
        metrics.plan.labels(look.recommendation.planner).observe(look.recommended_in_s)
        allocated = look.recommendation if look.allocation is None else look.allocation.recommendation
        metrics.desired.labels(*labels).set(allocated.cores_milli / 1000)
        metrics.refused.labels(*labels).set(0 if look.allocation is None else look.allocation.lacks_milli / 1000)
        self.state = replace(self.state, recommendation=allocated)
        self._count_held(look, look.recommendation)
        outcome = look.outcome
        if outcome is None:
            return
        metrics.tick.observe(look.took_s)
        if outcome.took_s is not None:
            metrics.resize.observe(outcome.took_s)

    def _count_held(self, look: Look, wanted: Recommendation) -> None:
        """Counts a resize that is held back, once until it is sent or no longer wanted."""
        held = wanted.reason if wanted.reason in HELD else ""
        if look.outcome is not None and look.outcome.held:
            held = look.outcome.held
        if held and held != self._held:
            self._count_as_held(held)
        self._held = held

    def _count_as_held(self, reason: str) -> None:
        service = self._service()
        self._context.metrics.held.labels(service.namespace, service.name, reason).inc()

    def _show_allocation(self, allocation: Allocation) -> None:
        """Shows that a shared node is full, but not for every moment."""
        now, name = self._context.clock(), self.state.name
        if not allocation.waits:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = now
        if allocation.refused or (self._waits_since is not None and now - self._waits_since >= WAIT_SHOWN_S):
            self._shared = resize.Blocked("NodeShared", allocation.message)
            self._shared_until = now + SHARED_SHOWN_S
            self._events.emit("Warning", "NodeShared", f"{name}: {allocation.message}", name)
        elif now >= self._shared_until:
            self._shared = None

    def _show_start(self, milli: int) -> None:
        """Reports that a container which starts at a smaller size gets its startup size."""
        name, size = self.state.name, cores_text(milli)
        event(log, "container.starting", pod=name, cores=size)
        message = f"{name}: its container starts, and has {size} cores until it is ready"
        self._events.emit("Normal", "StartupSize", message, name)

    def _show_quota(self, look: Look) -> None:
        """Keeps the pod's size and what blocks its resizes; logs and reports a new obstacle."""
        before, name, pod = self.state, self.state.name, self._context.pods.get(self._uid)
        self.state = replace(before, starting=None if pod is None else starting(pod))
        found = look.outcome or look.observation
        if found is None:
            return
        quota, blocked = found.quota, found.history.blocked
        if blocked is not None and blocked != self._blocked:
            event(log, "resize.blocked", logging.WARNING, pod=name, reason=blocked.reason, message=blocked.message)
            self._events.emit("Warning", f"Resize{blocked.reason}", f"{name}: {blocked.message}", about=name)
        self._blocked = blocked
        self.state = replace(
            self.state,
            actuated_milli=quota_state.actual_milli(quota),
            most_milli=_most_milli(look),
            in_flight=isinstance(quota, quota_state.InFlight),
            in_service=is_in_service(self._context.pods.get(self._uid) or {}),
            blocked=blocked or self._shared,
        )
        if (before.blocked, before.in_service) != (self.state.blocked, self.state.in_service):
            self._on_news()

    def _record(self, look: Look) -> None:
        """Logs a decision that changed something; one that was only recommended, once."""
        if look.observation is None or look.recommendation is None or look.observation.current_milli is None:
            return
        current, snapshot = look.observation.current_milli, look.observation.snapshot
        decided, outcome = look.recommendation, look.outcome
        if outcome is None:
            kind: str = "paused" if self._service().paused else "recommended"
            if decided.cores_milli == current or self._is_repeated(current, decided):
                return
        elif outcome.kind is None or look.allocation is None:
            return
        else:
            kind, decided = outcome.kind, look.allocation.recommendation
        last = LastDecision(
            self._context.wall(),
            current,
            decided.cores_milli,
            decided.batch_cap,
            decided.reason,
            applied=outcome is not None,
        )
        entry = Entry(
            time=last.time,
            service=self._service().key,
            pod=self.state.name,
            from_milli=current,
            to_milli=decided.cores_milli,
            batch_cap=decided.batch_cap,
            planner=look.recommendation.planner,
            reason=decided.reason,
            feasible=decided.feasible,
            urgent=snapshot.urgent,
            outcome=kind,
            took_s=None if outcome is None else outcome.took_s,
            queue_length=snapshot.queue_length,
            arrival_rate_rps=snapshot.arrival_rate_rps,
            frontier=[(point.cores_milli, point.misses) for point in snapshot.frontier],
        )
        self._context.decision_log.write(entry)
        self.state = replace(self.state, last=last, recent=(*self.state.recent, entry)[-RECENT:])
        self._on_news()

    def _is_repeated(self, current_milli: int, decided: Recommendation) -> bool:
        last = self.state.last
        return (
            last is not None
            and not last.applied
            and (last.from_milli, last.to_milli) == (current_milli, decided.cores_milli)
        )

    def _unreachable(self, trouble: str) -> None:
        is_news = self.state.reachable
        self.state = replace(self.state, reachable=False, trouble=trouble)
        self._accounted_at = None
        if is_news:
            event(log, "server.unreachable", logging.WARNING, pod=self.state.name, message=trouble)
            self._on_news()

    def _labels(self) -> tuple[str, str, str]:
        service = self._service()
        return service.namespace, service.name, self.state.name


def _most_milli(look: Look) -> int | None:
    """The largest size that the pod can have now: by a refusal, or by the joint plan of its node; None: any."""
    seen, allocation = look.observation, look.allocation
    if allocation is not None and allocation.refused:
        return allocation.recommendation.cores_milli
    return None if seen is None or seen.ceiling_milli is None else seen.sizes.max_milli


def _reason(look: Look, outcome: ResizeOutcome) -> str:
    """Why a size was asked for, if it is in force; else why it is not."""
    if outcome.kind != "actuated" and outcome.history.blocked is not None:
        return outcome.history.blocked.reason
    if look.allocation is not None:
        return look.allocation.recommendation.reason
    return "starting"
