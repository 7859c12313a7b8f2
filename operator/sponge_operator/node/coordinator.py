"""Shares each node among its driven pods: knows what the node has for them and what each pod needs.

A pod alone on its node costs nothing here, and pods whose recommendations fit together cost one sum. A node is read in
the background while at least two driven pods share it. Until it is known, or if the operator may not read it, every pod
gets its recommendation, as far as the kubelet grants it. `allocation` decides how a node is shared.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sponge_core.control_api import FrontierPoint
from sponge_core.planning.joint import JointPlan
from sponge_operator.autoscale.look import Allocation, OutcomeKind
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.clients.pods import PodCache
from sponge_operator.metrics import Metrics
from sponge_operator.node import allocation
from sponge_operator.node.allocation import Tenant
from sponge_operator.node.capacity import NodeView, asked_milli, container_milli, pod_milli, view_of
from sponge_operator.resources.manifests import CONTAINER
from sponge_system.logs import event

__all__ = ["NodeCoordinator"]

log = logging.getLogger("sponge.operator")

FRESH_S = 5.0
"""Between two reads of a shared node whose pods lack cores, because other pods come and go."""

CALM_S = 30.0
"""The same where every pod has what it needs: a read lists all pods of the node, and a refusal causes one at once."""

AT_ONCE = float("-inf")

Run = Callable[[Callable[[], JointPlan]], Awaitable[JointPlan]]

FORBIDDEN_S = 60.0
"""Before the next read after the API server forbade it."""

REPLAN_S = 0.2
"""How long a joint plan holds for the same pods and the same room; expected misses are noisy."""


@dataclass(slots=True)
class _Node:
    """One node with its driven pods.

    Attributes:
        promised_milli: sizes that were allocated and may not be in the API server's responses yet.
        settling: uids of the pods whose shrink is in force, but not in their status yet. The kubelet counts the larger
            size until then, and would defer what grows into the difference.
        waiting: uids of the pods that grow when others have shrunk.
        planned_for: tenants and room of the plan in force.
    """

    tenants: dict[str, Tenant] = field(default_factory=dict)
    wake: dict[str, Callable[[], None]] = field(default_factory=dict)
    promised_milli: dict[str, int] = field(default_factory=dict)
    settling: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    view: NodeView | None = None
    read_at: float = AT_ONCE
    reading: bool = False
    planned: dict[str, FrontierPoint] = field(default_factory=dict)
    planned_at: float = float("-inf")
    planning: bool = False
    planned_for: tuple[frozenset[str], int] | None = None


class NodeCoordinator:
    """All nodes with driven pods.

    Args:
        run: runs a joint plan, which takes a while, and returns it; in another thread by default.
    """

    def __init__(
        self, kube: Kube, pods: PodCache, metrics: Metrics, clock: Callable[[], float], run: Run = asyncio.to_thread
    ) -> None:
        self._run = run
        self._kube = kube
        self._pods = pods
        self._metrics = metrics
        self._clock = clock
        self._nodes: dict[str, _Node] = {}
        self._node_of: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def allocate(self, tenant: Tenant, wake: Callable[[], None]) -> Allocation:
        """What the pod gets now; its look ends with `conclude`, or with `leave` if it is no longer driven.

        Args:
            wake: called when the pod should look again at once, because it has to shrink or may grow.
        """
        name = self._node_name(tenant.uid)
        if self._node_of.get(tenant.uid, name) != name:
            self.leave(tenant.uid)
        if name is None:
            return Allocation(tenant.recommendation)
        node = self._nodes.setdefault(name, _Node())
        self._node_of[tenant.uid] = name
        if tenant.uid not in node.tenants:
            node.read_at = AT_ONCE  # others may have come with it
        node.tenants[tenant.uid], node.wake[tenant.uid] = tenant, wake
        node.waiting.discard(tenant.uid)
        if len(node.tenants) < 2:
            return Allocation(tenant.recommendation)
        self._read_if_due(name, node)
        if node.view is None:
            return Allocation(tenant.recommendation)
        if _is_content(tenant) and not (node.planned or node.planning or node.waiting):
            # Most looks of most pods; the sums over all pods of the node would cost more than the rest of the look.
            node.promised_milli[tenant.uid] = tenant.recommendation.cores_milli
            return Allocation(tenant.recommendation)
        room = self._room(node, node.view)
        self._plan(node, room)
        held = {uid: self._held(node, uid) for uid in node.tenants}
        allocated = allocation.allocate(tenant, node.planned.get(tenant.uid), room, held)
        node.promised_milli[tenant.uid] = allocated.recommendation.cores_milli
        if allocated.waits:
            node.waiting.add(tenant.uid)
        if allocated.waits or allocated.refused:
            return replace(allocated, message=_message(name, node, room, tenant, allocated))
        return allocated

    def conclude(self, uid: str, outcome: OutcomeKind | None) -> None:
        """The pod has acted on its allocation; None: nothing was done."""
        node = self._nodes.get(self._node_of.get(uid, ""))
        if node is None:
            return
        promised = node.promised_milli.pop(uid, None)
        if outcome in ("deferred", "infeasible", "rejected"):
            node.read_at = AT_ONCE  # another pod holds more than was known
        elif outcome == "actuated" and promised is not None and promised < node.tenants[uid].current_milli:
            node.settling.add(uid)
            self._settle(node, uid)

    def pod_changed(self, uid: str) -> None:
        """The pod has changed in the cache."""
        if (node := self._nodes.get(self._node_of.get(uid, ""))) is not None:
            self._settle(node, uid)

    def leave(self, uid: str) -> None:
        """The pod is not driven any more, or not now; it keeps what it holds."""
        name = self._node_of.pop(uid, None)
        if name is None:
            return
        node = self._nodes[name]
        del node.tenants[uid], node.wake[uid]
        node.promised_milli.pop(uid, None)
        node.settling.discard(uid)
        node.waiting.discard(uid)
        node.read_at = AT_ONCE
        if not node.tenants:
            del self._nodes[name]

    def _node_name(self, uid: str) -> str | None:
        name = ((self._pods.get(uid) or {}).get("spec") or {}).get("nodeName")
        return str(name) if name else None

    def _room(self, node: _Node, view: NodeView) -> int:
        """The CPU for the tenants' servers: all of the node, less other pods and the tenants' other containers."""
        others = 0
        for uid, held in view.held_milli.items():
            pod = self._pods.get(uid)
            others += held if pod is None else pod_milli(pod)
            if uid in node.tenants and pod is not None:
                others -= container_milli(pod, CONTAINER)
        return max(0, view.allocatable_milli - others)

    def _held(self, node: _Node, uid: str) -> int:
        pod, promised = self._pods.get(uid), node.promised_milli.get(uid)
        # Until a shrink is in force the pod has its former size, though its status may show a smaller one of before.
        under_way = 0 if promised is None else max(promised, node.tenants[uid].current_milli)
        return under_way if pod is None else max(under_way, container_milli(pod, CONTAINER))

    def _settle(self, node: _Node, uid: str) -> None:
        """Wakes the pods that wait for a shrink once the status of the one that shrank shows it."""
        pod = self._pods.get(uid)
        if uid in node.settling and (pod is None or container_milli(pod, CONTAINER) <= asked_milli(pod, CONTAINER)):
            node.settling.discard(uid)
            self._wake(node, node.waiting)

    def _plan(self, node: _Node, room: int) -> None:
        """Updates `node.planned`; it is empty while all recommendations fit."""
        now, tenants = self._clock(), list(node.tenants.values())
        if allocation.fit(tenants, room):
            node.planned, node.planned_for = {}, None
            return
        key = (frozenset(node.tenants), room)
        if node.planned_for == key and now - node.planned_at < REPLAN_S:
            return
        if not node.planning:
            node.planning = True
            self._start(self._plan_jointly(node, key, tenants), "joint plan")

    async def _plan_jointly(self, node: _Node, key: tuple[frozenset[str], int], tenants: list[Tenant]) -> None:
        """Plans beside the loop, because a program of many pods takes some tens of milliseconds."""
        before = node.planned
        try:
            with self._metrics.plan.labels("joint").time():
                plan = await self._run(partial(allocation.plan, tenants, key[1], self._clock))
        finally:
            node.planning = False
        self._metrics.joint.labels(plan.how).inc()
        node.planned = {tenant.uid: point for tenant, point in zip(tenants, plan.points, strict=True)}
        node.planned_at, node.planned_for = self._clock(), key
        self._wake(node, {uid for uid, point in node.planned.items() if before.get(uid) != point})

    def _wake(self, node: _Node, uids: set[str]) -> None:
        for uid in [uid for uid in uids if uid in node.wake]:
            node.wake[uid]()

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _read_if_due(self, name: str, node: _Node) -> None:
        is_calm = not node.planned and not node.waiting
        if node.reading or self._clock() < node.read_at + (CALM_S - FRESH_S if is_calm else 0.0):
            return
        node.reading = True
        node.read_at = self._clock() + FRESH_S
        self._start(self._read(name, node), f"read node {name}")

    async def _read(self, name: str, node: _Node) -> None:
        try:
            found = await self._kube.get("Node", "", name)
            pods = await self._kube.pods_on(name)
            node.view = view_of(found, pods) if found is not None else None
        except ApiError as error:
            # What was known may be outdated by now; the kubelet decides instead.
            node.view = None
            if error.status == 403:
                node.read_at = self._clock() + FORBIDDEN_S
            event(log, "node.unreadable", logging.WARNING, node=name, status=error.status, message=error)
        finally:
            node.reading = False
        self._wake(node, node.waiting)


def _is_content(tenant: Tenant) -> bool:
    """Whether it takes nothing from the others."""
    return tenant.recommendation.cores_milli <= tenant.current_milli


def _message(name: str, node: _Node, room_milli: int, tenant: Tenant, allocated: Allocation) -> str:
    total = sum(other.recommendation.cores_milli for other in node.tenants.values()) / 1000
    return (
        f"node {name} has {room_milli / 1000:g} cores for {len(node.tenants)} pods that together ask for {total:g}: of "
        f"{tenant.recommendation.cores_milli / 1000:g} cores this one is given "
        f"{allocated.recommendation.cores_milli / 1000:g}"
    )
