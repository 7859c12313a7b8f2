"""The pods of one service: which are its own, and a controller for each one that has an address."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sponge_core.control_api import StateSnapshot
from sponge_core.quantities import cores_text
from sponge_operator.autoscale import quota_state
from sponge_operator.autoscale.leaving import leave, left_as_started, left_with_enough
from sponge_operator.autoscale.letting_go import let_go
from sponge_operator.autoscale.memory_keeper import memory_rule
from sponge_operator.autoscale.pod_controller import PodController
from sponge_operator.autoscale.pod_state import PodState, is_in_service, node_of, starting
from sponge_operator.autoscale.pod_target import PodTarget
from sponge_operator.autoscale.replica_scaler import PodView, view_of
from sponge_operator.clients.kube import ApiError
from sponge_operator.clients.server import ServerError
from sponge_operator.clients.tokens import Tokens
from sponge_operator.clients.trust import Trust
from sponge_operator.context import Context, Events
from sponge_operator.resources.manifests import CONTAINER
from sponge_operator.resources.model import SpongeService
from sponge_operator.resources.obstacles import obstacle_of_pod
from sponge_operator.resources.source_entries import source_key_of
from sponge_system.logs import event

__all__ = ["ServicePods", "leave_forgotten"]

log = logging.getLogger("sponge.operator")

RESTART_S = 5.0
"""Before a controller that failed is started again."""

LOST_CHECK_S, LAST_LOST_CHECK_S = 10.0, 600.0
"""Before pods that do not answer are looked up, in case the watch has missed their end; doubles with each time."""


@dataclass(slots=True)
class _Driven:
    controller: PodController
    task: asyncio.Task[None]
    restart_at: float | None = None


class ServicePods:
    """Follows the pods of one service.

    Args:
        service: gives the SpongeService to size by, as it is now.
        tokens: of the servers' control ports; while none is known, no pod is driven.
        on_news: called when a pod's state changes in a way that the status should show at once.
    """

    def __init__(
        self,
        context: Context,
        events: Events,
        service: Callable[[], SpongeService],
        tokens: Tokens,
        trust: Trust,
        on_news: Callable[[], None],
    ) -> None:
        self._context = context
        self._events = events
        self._service = service
        self._tokens = tokens
        self._trust = trust
        self._on_news = on_news
        self._driven: dict[str, _Driven] = {}
        self._own: Sequence[Mapping[str, Any]] = ()
        self._shown: Mapping[str, object] = {}
        self._suspects: frozenset[str] = frozenset()
        self._lost_checks = 0
        self._lost_check_at = float("inf")

    def changed(self, *, is_edited: bool) -> None:
        """Call when a pod has changed, or the service was edited: then every server is looked at at once."""
        for driven in self._driven.values():
            driven.controller.pod_changed()
            if is_edited:
                driven.controller.wake()

    async def follow(self, deployment: Mapping[str, Any] | None) -> None:
        """Finds the pods of the Deployment; starts and stops controllers.

        Args:
            deployment: None if the service has none.
        """
        context, service, now = self._context, self._service(), self._context.clock()
        uid = None if deployment is None else deployment["metadata"]["uid"]
        labelled = context.pods.of_service(service.key)
        self._own = [pod for pod in labelled if uid is not None and context.replica_sets.deployment_of(pod) == uid]
        wanted = {}
        if self._tokens.known and service.spec.mode != "Off":
            wanted = {pod["metadata"]["uid"]: pod for pod in self._own if (pod.get("status") or {}).get("podIP")}
        await self.stop([uid for uid in self._driven if uid not in wanted], lets_go=bool(self._tokens.known))
        for uid, pod in wanted.items():
            driven = self._driven.get(uid)
            if driven is not None and driven.task.done():
                driven.restart_at = driven.restart_at or now + RESTART_S
                if now < driven.restart_at:
                    continue
                await self.stop([uid])
            elif driven is not None:
                continue
            self._driven[uid] = self._start(uid, pod["metadata"]["name"])

    def _start(self, uid: str, name: str) -> _Driven:
        context, service, began = self._context, self._service(), self._context.clock()
        controller = PodController(
            context,
            self._events,
            service=self._service,
            uid=uid,
            name=name,
            tokens=lambda: self._tokens.known,
            trust=lambda: self._trust.context,
            on_news=self._on_news,
        )

        def age() -> float:
            seen = controller.state.seen_at
            return context.clock() - (began if seen is None else seen)

        # Read when Prometheus asks, so that a server that has never answered grows old too.
        context.metrics.state_age.labels(service.namespace, service.name, name).set_function(age)
        task = asyncio.create_task(controller.run(), name=f"controller of {name}")
        task.add_done_callback(self._ended)
        return _Driven(controller, task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("controller.failed task=%s", task.get_name(), exc_info=error)
            self._context.metrics.faults.labels("controller").inc()
            message = f"{task.get_name()}: {error!r}; it starts again in {RESTART_S:g} s"
            self._events.emit("Warning", "InternalError", message, about=task.get_name())
            self._on_news()

    async def stop(self, uids: Iterable[str] | None = None, *, lets_go: bool = False) -> None:
        """Stops these controllers, or all; `lets_go`: their servers follow their quota from now on."""
        service = self._service()
        stopped = {uid: self._driven.pop(uid) for uid in (list(self._driven) if uids is None else uids)}
        for driven in stopped.values():
            driven.task.cancel()
            await asyncio.wait({driven.task})
            self._context.metrics.forget_pod(service.namespace, service.name, driven.controller.state.name)
        if lets_go:
            alive = (one.controller for uid, one in stopped.items() if self._context.pods.get(uid) is not None)
            # A server that is not reached notices by itself after a while.
            await asyncio.gather(*(controller.let_go() for controller in alive), return_exceptions=True)

    def want_source(self, name: str | None, source: str) -> None:
        """This pod should load the source beside its own; None: no pod should."""
        for driven in self._driven.values():
            controller = driven.controller
            controller.want_source(source if controller.state.name == name else None)

    def states(self) -> list[PodState]:
        """The states of the service's pods that are not on their way out, by name."""
        states = [replace(self._state(pod), obstacle=obstacle_of_pod(pod)) for pod in self._staying()]
        self._measure()
        self._shown = {uid: _substance(driven.controller.state) for uid, driven in self._driven.items()}
        return states

    def views(self) -> list[PodView]:
        """The service's pods that are not on their way out, as the number of pods is decided by."""
        return [view_of(pod, self._state(pod)) for pod in self._staying()]

    def _staying(self) -> list[Mapping[str, Any]]:
        """The newest versions of the pods that are not on their way out."""
        newest = [self._context.pods.get(pod["metadata"]["uid"]) or pod for pod in self._own]
        return [pod for pod in newest if not pod["metadata"].get("deletionTimestamp")]

    def _state(self, pod: Mapping[str, Any]) -> PodState:
        driven = self._driven.get(pod["metadata"]["uid"])
        known = PodState(pod["metadata"]["name"]) if driven is None else driven.controller.state
        key = source_key_of(pod, CONTAINER)
        return replace(known, in_service=is_in_service(pod), starting=starting(pod), node=node_of(pod), source_key=key)

    def _measure(self) -> None:
        metrics, service = self._context.metrics, self._service()
        for driven in self._driven.values():
            state = driven.controller.state
            labels = (service.namespace, service.name, state.name)
            metrics.reachable.labels(*labels).set(state.reachable)
            metrics.set_blocked(*labels, None if state.blocked is None else state.blocked.reason)

    def has_news(self) -> bool:
        """Whether a server's state has changed since `states` in a way that the status shows."""
        return any(self._shown.get(uid) != _substance(one.controller.state) for uid, one in self._driven.items())

    def due_at(self) -> float:
        """When `follow` or `forget_lost` should run next without a change."""
        restarts = [driven.restart_at for driven in self._driven.values() if driven.restart_at is not None]
        return min(self._lost_check_at, *restarts) if restarts else self._lost_check_at

    @property
    def all_reached(self) -> bool:
        """Whether every server answers, and every pod that a node has taken has an address."""
        if any(_has_no_address(pod) for pod in self._own):
            return False
        return all(driven.controller.state.reachable for driven in self._driven.values())

    async def forget_lost(self) -> None:
        """Looks up pods that do not answer: they may have been deleted, or lost their label, unnoticed by the watch."""
        context, now = self._context, self._context.clock()
        suspects = {pod["metadata"]["uid"]: pod for pod in self._own if not self._is_reached(pod["metadata"]["uid"])}
        if suspects.keys() != self._suspects:
            self._suspects, self._lost_checks = frozenset(suspects), 0
            self._lost_check_at = now + LOST_CHECK_S if suspects else float("inf")
        if now < self._lost_check_at:
            return
        self._lost_checks += 1
        self._lost_check_at = now + min(LAST_LOST_CHECK_S, LOST_CHECK_S * 2**self._lost_checks)
        for uid, pod in suspects.items():
            try:
                present = await context.kube.get("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])
            except ApiError:
                continue
            if present is None or present["metadata"]["uid"] != uid:
                context.pods.remove(pod)
            else:
                context.pods.update(present)

    def _is_reached(self, uid: str) -> bool:
        driven = self._driven.get(uid)
        return driven is not None and driven.controller.state.reachable

    async def restore(self) -> None:
        """Lets go of every pod and restores its startup size, because nothing resizes it from now on."""
        await asyncio.gather(*(self._restore(pod) for pod in self._own))

    async def fall_back(self) -> None:
        """Lets go of every pod, and gives it `cpu.fallback` if it has less, because no operator follows."""
        service = self._service()
        spec = service.spec
        if spec.mode != "Auto" or service.paused or service.paused_direction == "grow":
            return
        await asyncio.gather(*(self._fall_back(pod, spec.cpu.fallback) for pod in self._own))

    async def _fall_back(self, pod: Mapping[str, Any], fallback_milli: int | None) -> None:
        # The size first: letting go waits for a server, which may not answer.
        target = _target(self._context, pod, self._tokens, self._trust)
        left = left_with_enough(pod, quota_state.least_milli(target.observe(None)), fallback_milli)
        if left.milli is not None:
            event(log, "pod.left", pod=target.name, cores=cores_text(left.milli))
        await leave(self._context.kube, target, pod, left)
        await self._let_go(target)

    async def _restore(self, pod: Mapping[str, Any]) -> None:
        target = _target(self._context, pod, self._tokens, self._trust)
        await self._let_go(target)
        await leave(self._context.kube, target, pod, left_as_started(pod, memory_rule(self._service().spec)))

    async def _let_go(self, target: PodTarget) -> None:
        with contextlib.suppress(ServerError):  # it notices by itself after a while
            await let_go(target, self._context.control)


async def leave_forgotten(context: Context, pod: Mapping[str, Any]) -> None:
    """Leaves a pod whose service has gone as it was started; the limits of its memory are not known any more."""
    await leave(context.kube, _target(context, pod, Tokens(), Trust()), pod, left_as_started(pod, None))


def _target(context: Context, pod: Mapping[str, Any], tokens: Tokens, trust: Trust) -> PodTarget:
    return PodTarget(
        context.kube,
        context.control,
        context.pods,
        context.clock,
        uid=pod["metadata"]["uid"],
        name=pod["metadata"]["name"],
        tokens=lambda: tokens.known,
        trust=lambda: trust.context,
    )


def _has_no_address(pod: Mapping[str, Any]) -> bool:
    """Whether a node has taken the pod and has not set it up yet; it waits for its Secrets, for example."""
    status = pod.get("status") or {}
    is_alive = status.get("phase") == "Pending" and not pod["metadata"].get("deletionTimestamp")
    return is_alive and bool(pod["spec"].get("nodeName")) and not status.get("podIP")


def _substance(state: PodState) -> object:
    """What changes only when there is something to show: an idle server sends a new state every second."""
    return state.reachable, state.trouble, None if state.snapshot is None else _news(state.snapshot)


def _news(snapshot: StateSnapshot) -> object:
    projects, total = bool(snapshot.frontier), sum(snapshot.outcomes.values())
    return total, projects, snapshot.ready, snapshot.draining, snapshot.profile_drifted
