"""Keeps the number of pods of one service: looks once a second, and says, marks and hands over what is due.

The `ReplicaScaler` decides. While the service is not driven, or a server in service does not answer, the number stays.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from sponge_operator.autoscale.replica_scaler import PodView, ReplicaScaler, Scaling
from sponge_operator.clients.kube import ApiError
from sponge_operator.context import Context, Events
from sponge_operator.resources.model import SpongeService
from sponge_operator.resources.obstacles import failure_of, is_rolled_out
from sponge_operator.resources.status_input import LastScaling
from sponge_system.logs import event

__all__ = ["ServiceScaling"]

log = logging.getLogger("sponge.operator")

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""The annotation by which a ReplicaSet chooses among pods that serve; the lowest goes first, and 0 is that of most."""

GOES_FIRST = str(-(2**31))

BECAUSE: Mapping[str, str] = {
    "load": "the load takes {load:.3g} cores, and {asked} may have {has:.3g}",
    "ahead": "the load rises; it is {load:.3g} cores now, {asked} may have {has:.3g}, and a start takes {cold:.3g} s",
    "missed": "requests miss at the largest sizes; the load takes {load:.3g} cores, and {asked} may have {has:.3g}",
    "ceiling": "nodes or policies leave {asked} only {has:.3g} cores, and the load takes {load:.3g}",
    "idle": "there has been no request for long",
    "woken": "somebody waits for one",
    "range": "the spec asks for so many at least, or at most",
    "spare": "the load takes {load:.3g} cores, and one of {asked} can be spared",
}


class ServiceScaling:
    """One service.

    Attributes:
        seen: the newest look; None while the number does not follow the load.
        last: the newest change; None since the operator started.
    """

    def __init__(self, context: Context, events: Events, cold_start_s: float | None) -> None:
        self._context = context
        self._events = events
        self._scaler = ReplicaScaler(cold_start_s)
        self._recommended: int | None = None
        self._due: Scaling | None = None
        self.seen: Scaling | None = None
        self.last: LastScaling | None = None

    def look(self, service: SpongeService, deployment: Mapping[str, Any] | None, pods: Sequence[PodView]) -> bool:
        """Looks at the pods; returns whether there is something for `carry_out`, or news for the status."""
        before = self.seen
        if deployment is None or service.spec.replicas.is_fixed or service.spec.mode == "Off" or service.paused:
            self.seen = self._due = self._recommended = None
            return before is not None
        asked, only_tells = int(deployment["spec"].get("replicas", 1)), service.spec.mode == "Recommend"
        counts = asked if self._recommended is None or not only_tells else self._recommended
        seen = self._scaler.look(self._context.clock(), self._context.wall(), service, counts, pods)
        self.seen = seen
        if only_tells:
            self._recommended = seen.wanted
        elif seen.wanted != asked and self._may(service, deployment, seen):
            self._due = seen
        return self._due is not None or _news(before) != _news(seen)

    def _may(self, service: SpongeService, deployment: Mapping[str, Any], seen: Scaling) -> bool:
        if self._context.unable() is not None:
            return False
        if seen.wanted > seen.asked:
            return service.paused_direction != "grow"
        # In the middle of a rollout, a ReplicaSet that has to go anyway would lose the pod. Pods that cannot be made,
        # for a quota, hold nothing up; and where a rollout gets no further, the pod may hold what it lacks.
        is_free = is_rolled_out(deployment, 0) or failure_of(deployment) is not None
        return service.paused_direction != "shrink" and is_free

    async def carry_out(self, service: SpongeService, pods: Sequence[PodView]) -> int | None:
        """The number of pods to request; None: as it is. Before, marks the pod that goes."""
        due, self._due = self._due, None
        if due is None:
            return None
        if 0 < due.wanted < due.asked and (going := self._scaler.leaving(pods, service.spec)) is not None:
            await self._mark(service, going)
        self._tell(service, due)
        return due.wanted

    async def _mark(self, service: SpongeService, pod: PodView) -> None:
        mark = {"metadata": {"uid": pod.uid, "annotations": {DELETION_COST: GOES_FIRST}}}
        try:
            await self._context.kube.merge("Pod", service.namespace, pod.state.name, mark)
        except ApiError as error:
            # Without it the newest pod goes, which is right most of the time.
            event(log, "pod.unmarked", logging.WARNING, pod=pod.state.name, status=error.status, message=error)

    def _tell(self, service: SpongeService, due: Scaling) -> None:
        is_out = due.wanted > due.asked
        self.last = LastScaling(self._context.wall(), due.asked, due.wanted, due.reason)
        labels = (service.namespace, service.name, "out" if is_out else "in", due.reason)
        self._context.metrics.scalings.labels(*labels).inc()
        event(
            log,
            "replicas.changed",
            service=service.key,
            before=due.asked,
            after=due.wanted,
            reason=due.reason,
            load=due.load_cores,
            has=due.has_cores,
        )
        why = BECAUSE.get(due.reason, due.reason).format(
            load=due.load_cores, has=due.has_cores, asked=_pods(due.asked), cold=due.cold_start_s
        )
        message = f"{_pods(due.asked)} become {due.wanted}: {why}"
        self._events.emit("Normal", "ScaledOut" if is_out else "ScaledIn", message, about=message)


def _pods(number: int) -> str:
    return "1 pod" if number == 1 else f"{number} pods"


def _news(seen: Scaling | None) -> object:
    return None if seen is None else (seen.asked, seen.wanted, seen.reason, seen.serving, seen.lost, seen.stale)
