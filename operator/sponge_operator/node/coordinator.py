"""Keeps the pods of one node from fighting for it: knows what each node has for them and what each pod wishes.

A pod alone on its node costs nothing here, and pods whose wishes fit together only a sum. What is on a node is read in
the background, while at least two driven pods share it; until it is known, and where the operator may not read it,
every pod gets its wish, as far as the kubelet grants it. How a node is shared is decided by `sharing`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from sponge_core.control_api import FrontierPoint
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.clients.pods import PodCache
from sponge_operator.metrics import Metrics
from sponge_operator.node import allocation
from sponge_operator.node.allocation import Grant, Tenant
from sponge_operator.node.capacity import NodeView, asked_milli, container_milli, pod_milli, view_of
from sponge_operator.resources.manifests import CONTAINER

__all__ = ["Nodes"]

log = logging.getLogger("sponge.operator")

FRESH_S = 5.0
"""Between two looks at a node that is shared: other pods come and go."""

FORBIDDEN_S = 60.0
"""After the API server refused to show a node."""

REPLAN_S = 0.2
"""How long a joint plan holds while the same pods share the same room: misses are counted, and counts scatter."""


@dataclass(slots=True)
class _Node:
    """One node with the driven pods on it.

    Attributes:
        promised_milli: sizes that were granted and may not be in the API server's answers yet.
        actuated_milli: sizes that are in force; a pod's status says so some milliseconds later.
        waiting: uids of the pods that grow when others have shrunk.
    """

    tenants: dict[str, Tenant] = field(default_factory=dict)
    wake: dict[str, Callable[[], None]] = field(default_factory=dict)
    promised_milli: dict[str, int] = field(default_factory=dict)
    actuated_milli: dict[str, int] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    view: NodeView | None = None
    look_at: float = 0.0
    looking: bool = False
    planned: dict[str, FrontierPoint] = field(default_factory=dict)
    planned_at: float = float("-inf")
    planned_for: tuple[frozenset[str], int] | None = None  # tenants and room of the plan in force


class Nodes:
    """All nodes with driven pods."""

    def __init__(self, kube: Kube, pods: PodCache, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._kube = kube
        self._pods = pods
        self._metrics = metrics
        self._clock = clock
        self._nodes: dict[str, _Node] = {}
        self._node_of: dict[str, str] = {}
        self._looks: set[asyncio.Task[None]] = set()

    def settle(self, tenant: Tenant, wake: Callable[[], None]) -> Grant:
        """What the pod gets now of what it wishes. After acting on it, call `settled`.

        Args:
            wake: has the pod looked at at once; called when it is to shrink for others, or may grow after them.
        """
        name = self._node_name(tenant.uid)
        if self._node_of.get(tenant.uid, name) != name:
            self.forget(tenant.uid)
        if name is None:
            return Grant(tenant.wish)
        node = self._nodes.setdefault(name, _Node())
        self._node_of[tenant.uid] = name
        node.tenants[tenant.uid], node.wake[tenant.uid] = tenant, wake
        node.actuated_milli.pop(tenant.uid, None)
        node.waiting.discard(tenant.uid)
        if len(node.tenants) < 2:
            return Grant(tenant.wish)
        self._look_if_due(name, node)
        if node.view is None:
            return Grant(tenant.wish)
        room = self._room(node, node.view)
        self._plan(node, room)
        held = {uid: self._held(node, uid) for uid in node.tenants}
        granted = allocation.grant(tenant, node.planned.get(tenant.uid), room, held)
        node.promised_milli[tenant.uid] = granted.wish.cores_milli
        if granted.waits:
            node.waiting.add(tenant.uid)
        return granted

    def settled(self, uid: str, outcome: str | None) -> None:
        """The pod has acted on its grant, with that outcome."""
        node = self._nodes.get(self._node_of.get(uid, ""))
        if node is None:
            return
        promised = node.promised_milli.pop(uid, None)
        if outcome in ("deferred", "infeasible", "rejected"):
            node.look_at = 0.0  # somebody holds more than was known
        elif outcome == "actuated" and promised is not None:
            node.actuated_milli[uid] = promised
            if promised < node.tenants[uid].current_milli:
                self._wake(node, node.waiting)

    def forget(self, uid: str) -> None:
        """The pod is not driven any more, or not now: it keeps what it holds."""
        name = self._node_of.pop(uid, None)
        if name is None:
            return
        node = self._nodes[name]
        del node.tenants[uid], node.wake[uid]
        node.promised_milli.pop(uid, None)
        node.actuated_milli.pop(uid, None)
        node.waiting.discard(uid)
        node.look_at = 0.0
        if not node.tenants:
            del self._nodes[name]

    def describe(self, uid: str, granted: Grant) -> str:
        """Why a pod does not get its wish, for people."""
        name = self._node_of[uid]
        node = self._nodes[name]
        wished = sum(tenant.wish.cores_milli for tenant in node.tenants.values()) / 1000
        room = self._room(node, node.view) / 1000 if node.view is not None else 0.0
        alone = (granted.wish.cores_milli + granted.lacks_milli) / 1000
        return (
            f"node {name} has {room:g} cores for {len(node.tenants)} pods that together ask for {wished:g}: of "
            f"{alone:g} cores this one is given {granted.wish.cores_milli / 1000:g}"
        )

    def _node_name(self, uid: str) -> str | None:
        name = ((self._pods.get(uid) or {}).get("spec") or {}).get("nodeName")
        return str(name) if name else None

    def _room(self, node: _Node, view: NodeView) -> int:
        """What the node has for its tenants' servers: less all other pods, and less what runs beside the servers."""
        others = 0
        for uid, held in view.held_milli.items():
            pod = self._pods.get(uid)
            others += held if pod is None else pod_milli(pod)
            if uid in node.tenants and pod is not None:
                others -= container_milli(pod, CONTAINER)
        return max(0, view.allocatable_milli - others)

    def _held(self, node: _Node, uid: str) -> int:
        pod, promised = self._pods.get(uid), node.promised_milli.get(uid, 0)
        if pod is None:
            return promised
        asked = asked_milli(pod, CONTAINER)
        return max(promised, asked if node.actuated_milli.get(uid) == asked else container_milli(pod, CONTAINER))

    def _plan(self, node: _Node, room: int) -> None:
        """Brings `node.planned` up to date: empty where all wishes fit."""
        now, tenants = self._clock(), list(node.tenants.values())
        if allocation.fit(tenants, room):
            node.planned, node.planned_for = {}, None
            return
        key = (frozenset(node.tenants), room)
        if node.planned_for == key and now - node.planned_at < REPLAN_S:
            return
        with self._metrics.plan.labels("joint").time():
            plan = allocation.share(tenants, room, self._clock)
        self._metrics.joint.labels(plan.how).inc()
        before = node.planned
        node.planned = {tenant.uid: point for tenant, point in zip(tenants, plan.points, strict=True)}
        node.planned_at, node.planned_for = now, key
        for uid, point in node.planned.items():
            if before.get(uid) != point and point.cores_milli < self._held(node, uid):
                self._wake(node, {uid})

    def _wake(self, node: _Node, uids: set[str]) -> None:
        for uid in list(uids):
            node.wake[uid]()

    def _look_if_due(self, name: str, node: _Node) -> None:
        if node.looking or self._clock() < node.look_at:
            return
        node.looking = True
        node.look_at = self._clock() + FRESH_S
        task = asyncio.create_task(self._look(name, node), name=f"look at node {name}")
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def _look(self, name: str, node: _Node) -> None:
        try:
            found = await self._kube.get("Node", "", name)
            pods = await self._kube.pods_on(name)
            node.view = view_of(found, pods) if found is not None else None
        except ApiError as error:
            # What was known may have changed by now: the kubelet's word is the better one.
            node.view = None
            if error.status == 403:
                node.look_at = self._clock() + FORBIDDEN_S
            log.warning("node.unreadable node=%s status=%d message=%s", name, error.status, error)
        finally:
            node.looking = False
        self._wake(node, node.waiting)
