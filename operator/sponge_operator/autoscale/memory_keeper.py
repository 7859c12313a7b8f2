"""Keeps a pod's memory limit beside its batch cap: grows it before the cap grows, shrinks it after the cap has shrunk.

It sends a resize and looks again at the next look of the control loop: no CPU ever waits for memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from sponge_core.control_api import StateSnapshot
from sponge_core.planning.decider import Recommendation
from sponge_operator.autoscale.look import Allocation
from sponge_operator.autoscale.memory import (
    QUIET_S,
    MemoryAction,
    MemoryHistory,
    MemoryLimit,
    MemoryRule,
    observe_memory,
    step_memory,
)
from sponge_operator.autoscale.resize_budget import ResizeBudget
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.clients.pods import PodCache
from sponge_operator.resources.manifests import CONTAINER
from sponge_operator.resources.model import ServiceSpec
from sponge_system.logs import event

__all__ = ["MemoryKeeper", "memory_rule"]

log = logging.getLogger("sponge.operator")


def memory_rule(spec: ServiceSpec, versions: int = 1) -> MemoryRule:
    """The limits that a service allows."""
    memory = spec.memory
    return MemoryRule(memory.base, memory.per_batch_item, spec.batch.max, memory.in_place, versions)


class MemoryKeeper:
    """The memory limit of one pod.

    Args:
        rule: gives the allowed limits.
        budget: limits the rate of resizes; one that takes back another is sent in any case.
        on_resize: called after each resize that was sent, with its action, and after each refusal.
        on_held: called when the budget holds a resize back, once until one is sent.

    Attributes:
        due: the limit is not yet the one that is wanted; look again soon.
    """

    def __init__(
        self,
        kube: Kube,
        pods: PodCache,
        uid: str,
        rule: Callable[[], MemoryRule],
        budget: ResizeBudget,
        on_resize: Callable[[MemoryAction], None],
        on_held: Callable[[], None],
    ) -> None:
        self._kube = kube
        self._pods = pods
        self._uid = uid
        self._rule = rule
        self._budget = budget
        self._on_resize = on_resize
        self._on_held = on_held
        self._history = MemoryHistory()
        self._changed = False
        self._is_held = False
        self.due = False

    def limit(self) -> MemoryLimit | None:
        """The limit in force; None if nothing is known of it."""
        pod = self._pods.get(self._uid)
        return None if pod is None else observe_memory(pod, CONTAINER)

    def bounded(self, allocation: Allocation, snapshot: StateSnapshot) -> Recommendation:
        """The allocated recommendation with the batch cap that the memory in force has room for."""
        given, rule, limit = allocation.recommendation, self._rule(), self.limit()
        if not rule.in_place or limit is None or snapshot.memory is None:
            return given
        room = min(limit.actual, limit.spec)
        cap = rule.cap_under(room, snapshot.memory, len(snapshot.lanes), given.batch_cap)
        return replace(given, batch_cap=cap)

    async def follow(self, now: float, snapshot: StateSnapshot | None, batch_cap: int) -> None:
        """Sends the memory resize that is due.

        Args:
            now: seconds on the loop's clock.
            snapshot: of a server that serves; None for one that starts or does not answer. It starts with what the
                limit has room for, so it gets the whole limit.
            batch_cap: the larger of the recommended one and the one in force.
        """
        rule, limit = self._rule(), self.limit()
        self.due = False
        if limit is None or not (rule.in_place or self._changed):
            return
        if snapshot is None or not rule.in_place:
            wanted = max(limit.actual, rule.most)
            self._changed = self._changed and limit.actual < wanted
        elif snapshot.memory is None:
            return
        else:
            wanted = rule.wanted(snapshot.memory, len(snapshot.lanes), batch_cap)
        self.due = wanted != limit.actual or limit.spec != limit.actual
        action, history = step_memory(limit, wanted, self._history, now)
        if action is not None and not self._may_send(action, now):
            return
        self._history = history
        if action is not None:
            await self._send(action, now)

    def _may_send(self, action: MemoryAction, now: float) -> bool:
        may = action.kind == "taken_back" or self._budget.take(now, grows=action.kind == "grow")
        if not may and not self._is_held:
            self._on_held()
        self._is_held = not may
        return may

    async def _send(self, action: MemoryAction, now: float) -> None:
        pod = self._pods.get(self._uid)
        if pod is None:
            return
        name = pod["metadata"]["name"]
        try:
            patched = await self._kube.resize(pod, CONTAINER, None, action.limit)
        except ApiError as error:
            self._history = replace(self._history, quiet_until=now + QUIET_S)
            event(log, "memory.refused", logging.WARNING, pod=name, message=error)
            self._on_resize(replace(action, kind="taken_back", message=str(error)))
            return
        self._changed = True
        self._pods.update(patched)
        event(log, f"memory.{action.kind}", pod=name, mib=action.limit >> 20, message=action.message)
        self._on_resize(action)
