"""Keeps one pod at the size that its deadlines need: reads its server's state, decides, has it carried out, reports.

The server holds the long poll back until something is urgent, so a burst is answered in milliseconds and an idle
service costs one request a second. A server that does not answer freezes its pod: nothing is ever decided on an old
state.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from sponge_core.control_api import SizeRange, StateSnapshot
from sponge_operator.autoscale import resize
from sponge_operator.autoscale.decision_log import Entry
from sponge_operator.autoscale.pod_state import Blocked, LastDecision, PodReport, is_in_service
from sponge_operator.autoscale.recommender import PodDecider, Wish, parked, sizes_under
from sponge_operator.autoscale.resizer import Actuator, Result
from sponge_operator.clients.server import ServerError
from sponge_operator.context import Context, Events
from sponge_operator.node.allocation import Tenant
from sponge_operator.resources.model import SpongeService

__all__ = ["PodDriver"]

log = logging.getLogger("sponge.operator")

SHORTEST_GAP_S = 0.02
"""Between two looks at a server: an urgent state answers the long poll at once, as often as it is asked."""

BLOCKED_GAP_S = 0.2
"""The same where the urgency cannot be helped: nothing may be changed, or no larger size is to be had."""

RETRY_S = 0.5

SHARED_SHOWN_S = 5.0
"""How long a refusal for the sake of other services stays in the status: a load comes and goes many times a second."""

WAIT_SHOWN_S = 1.0
"""How long a pod waits for others to shrink until its status says so; a shrink takes some tens of milliseconds."""


class PodDriver:
    """One pod's loop; `run` until cancelled."""

    def __init__(
        self,
        context: Context,
        events: Events,
        service: Callable[[], SpongeService],
        uid: str,
        name: str,
        token: str,
        on_news: Callable[[], None],
    ) -> None:
        self._context = context
        self._events = events
        self._service = service
        self._uid = uid
        self._on_news = on_news
        self._decider = PodDecider(service().spec.planner.look_back)
        self._look_back_s = service().spec.planner.look_back
        self._since = 0
        self._again = False
        self._woken = asyncio.Event()
        self._shared: Blocked | None = None
        self._shared_until = 0.0
        self._waits_since: float | None = None
        self._accounted_at: float | None = None
        self.actuator = Actuator(context, events, uid, token)
        self._token = token
        self.report = PodReport(name)

    async def run(self) -> None:
        """Never returns; an error of one look is logged and the next one follows."""
        context = self._context
        try:
            while True:
                began = context.clock()
                try:
                    snapshot = await self._state()
                    self._since = snapshot.version
                    gap = await self._look(snapshot)
                except ServerError as error:
                    self._unreachable(str(error))
                    gap = RETRY_S
                await asyncio.sleep(max(0.0, began + gap - context.clock()))
        finally:
            context.nodes.forget(self._uid)

    async def _state(self) -> StateSnapshot:
        """The server's state: once something is urgent there, `poll_s` has passed, or another pod has woken this
        one."""
        context, url = self._context, self.actuator.base_url()
        if not self._again and not self._woken.is_set():
            poll = asyncio.ensure_future(context.control.state(url, self._token, self._since, context.settings.poll_s))
            waking = asyncio.ensure_future(self._woken.wait())
            try:
                await asyncio.wait({poll, waking}, return_when=asyncio.FIRST_COMPLETED)
                if poll.done():
                    return poll.result()
            finally:
                waking.cancel()
                if poll.cancel():
                    await asyncio.wait({poll})
        self._woken.clear()
        return await context.control.state(url, self._token, self._since, 0.0)

    async def _look(self, snapshot: StateSnapshot) -> float:
        """Decides on a fresh state and acts; returns the shortest time until the next look."""
        context, service = self._context, self._service()
        began = context.clock()
        observed = self.actuator.observe(snapshot.cpu_quota_milli)
        current = resize.actual_milli(observed)
        self.report = replace(self.report, reachable=True, trouble="", seen_at=began, snapshot=snapshot)
        self._account(service, current, began)
        if not snapshot.ready or snapshot.draining or current is None:
            # While it loads, a pod keeps the size that it started with.
            context.nodes.forget(self._uid)
            self.actuator.note(observed)
            self._seen(observed)
            return BLOCKED_GAP_S
        ceiling = self.actuator.ceiling_milli()
        sizes = sizes_under(service.spec.cpu, ceiling)
        wish = self._decide(service, snapshot, current, sizes, ceiling)
        if service.spec.mode != "Auto" or service.paused:
            context.nodes.forget(self._uid)
            self._shared = None
            context.metrics.refused.labels(*self._labels(service)).set(0)
            self._seen(observed)
            outcome = "paused" if service.paused else "recommended"
            self._record(service, snapshot, current, wish, Result(outcome), applied=False)
            return BLOCKED_GAP_S
        wish = self._share(service, snapshot, current, sizes, wish)
        result = Result()
        try:
            result = await self.actuator.bring(observed, snapshot, wish, sizes)
        finally:
            context.nodes.settled(self._uid, result.outcome)
        context.metrics.tick.observe(context.clock() - began)
        self._seen(self.actuator.observe(wish.cores_milli if result.outcome == "actuated" else None))
        if result.outcome is not None:
            self._record(service, snapshot, current, wish, result, applied=True)
        # What was refused is decided anew at once, under what was learnt from the refusal.
        self._again = result.outcome in ("deferred", "infeasible", "rejected", "error")
        return BLOCKED_GAP_S if snapshot.urgent and result.outcome != "actuated" else SHORTEST_GAP_S

    def _decide(
        self, service: SpongeService, snapshot: StateSnapshot, current: int, sizes: SizeRange, ceiling: int | None
    ) -> Wish:
        now = self._context.clock()
        look_back_s = service.spec.planner.look_back
        if look_back_s != self._look_back_s:
            self._look_back_s, self._decider = look_back_s, PodDecider(look_back_s)
        with self._context.metrics.plan.labels("projected").time():
            wish = parked(service.spec.cpu, snapshot.idle_for_s, snapshot.batch_cap) or self._decider.decide(
                now, current, snapshot.batch_cap, snapshot.frontier, sizes, ceiling
            )
        self.report = replace(self.report, wish=wish)
        self._context.metrics.desired.labels(*self._labels(service)).set(wish.cores_milli / 1000)
        return wish

    def _share(
        self, service: SpongeService, snapshot: StateSnapshot, current: int, sizes: SizeRange, wish: Wish
    ) -> Wish:
        """What the pod gets of its wish, beside the other pods of its node."""
        context, now = self._context, self._context.clock()
        tenant = Tenant(self._uid, wish, snapshot, sizes, current, float(service.spec.slo.weight))
        granted = context.nodes.settle(tenant, self._woken.set)
        if not granted.waits:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = now
        if granted.refused or (self._waits_since is not None and now - self._waits_since >= WAIT_SHOWN_S):
            self._shared = Blocked("NodeShared", context.nodes.describe(self._uid, granted))
            self._shared_until = now + SHARED_SHOWN_S
            self._events.emit("Warning", "NodeShared", f"{self.report.name}: {self._shared.message}", self.report.name)
        elif now >= self._shared_until:
            self._shared = None
        labels = self._labels(service)
        context.metrics.refused.labels(*labels).set(granted.lacks_milli / 1000)
        context.metrics.desired.labels(*labels).set(granted.wish.cores_milli / 1000)
        self.report = replace(self.report, wish=granted.wish)
        return granted.wish

    def _account(self, service: SpongeService, current: int | None, now: float) -> None:
        if current is None:
            self._accounted_at = None
            return
        metrics = self._context.metrics
        metrics.actuated.labels(*self._labels(service)).set(current / 1000)
        if self._accounted_at is not None:
            saved_milli = max(0, service.spec.cpu.max - current)
            metrics.saved.labels(service.namespace, service.name).inc(saved_milli / 1000 * (now - self._accounted_at))
        self._accounted_at = now

    def _seen(self, observed: resize.Observed) -> None:
        before = self.report
        self.report = replace(
            before,
            actuated_milli=resize.actual_milli(observed),
            in_flight=isinstance(observed, resize.InFlight),
            in_service=is_in_service(self._context.pods.get(self._uid) or {}),
            blocked=self.actuator.blocked or self._shared,
        )
        if (before.blocked, before.in_service) != (self.report.blocked, self.report.in_service):
            self._on_news()

    def _unreachable(self, trouble: str) -> None:
        news = self.report.reachable
        # What it holds stays its own; nobody else's plan counts on it.
        self._context.nodes.forget(self._uid)
        self.report = replace(self.report, reachable=False, trouble=trouble)
        self._accounted_at = None
        if news:
            log.warning("server.unreachable pod=%s message=%s", self.report.name, trouble)
            self._on_news()

    def _record(
        self,
        service: SpongeService,
        snapshot: StateSnapshot,
        current: int,
        wish: Wish,
        result: Result,
        *,
        applied: bool,
    ) -> None:
        """Keeps a decision that changed something; one that was only recommended, once."""
        context, last = self._context, self.report.last
        if not applied:
            if wish.cores_milli == current:
                return
            if (
                last is not None
                and not last.applied
                and (last.from_milli, last.to_milli) == (current, wish.cores_milli)
            ):
                return
        decision = LastDecision(context.wall(), current, wish.cores_milli, wish.batch_cap, wish.reason, applied)
        self.report = replace(self.report, last=decision)
        context.journal.write(
            Entry(
                time=decision.time,
                service=service.key,
                pod=self.report.name,
                from_milli=current,
                to_milli=wish.cores_milli,
                batch_cap=wish.batch_cap,
                reason=wish.reason,
                feasible=wish.feasible,
                urgent=snapshot.urgent,
                outcome=result.outcome or "none",
                took_s=result.took_s,
                queue_length=snapshot.queue_length,
                arrival_rate_rps=snapshot.arrival_rate_rps,
                frontier=[(point.cores_milli, point.misses) for point in snapshot.frontier],
            )
        )
        self._on_news()

    def _labels(self, service: SpongeService) -> tuple[str, str, str]:
        return service.namespace, service.name, self.report.name
