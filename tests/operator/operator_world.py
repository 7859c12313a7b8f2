"""A world in virtual time: one pod with its kubelet and server, as the operator sees them.

Only the API server and the control port are doubles; everything between them is the operator's own code.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any, cast

from operator_doubles import ApiServerDouble, ControlPortDouble, SourcesDouble
from operator_pods import container_of, pod_of
from prometheus_client import CollectorRegistry

from sponge_core.control_api import (
    ApplyRequest,
    FrontierPoint,
    MemoryState,
    ProfileReport,
    StateSnapshot,
)
from sponge_core.planning.joint import JointPlan
from sponge_core.quantities import cpu_quantity, parse_bytes, parse_cpu_milli
from sponge_operator.autoscale.decision_log import DecisionLog, Entry
from sponge_operator.autoscale.pod_controller import PodController
from sponge_operator.autoscale.pod_target import PodTarget
from sponge_operator.autoscale.resize_budget import ResizeBudget
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.clients.pods import PodCache
from sponge_operator.clients.replica_sets import ReplicaSets
from sponge_operator.clients.rivals import Rivals
from sponge_operator.clients.server import ControlClient
from sponge_operator.context import Context, Events
from sponge_operator.metrics import Metrics
from sponge_operator.node.coordinator import NodeCoordinator
from sponge_operator.resources.model import SpongeService, parse_service
from sponge_operator.settings import OperatorSettings

KUBELET_S = 0.022
STATUS_S = 0.02
RELIST_S = 0.7


class KeptLog(DecisionLog):
    """Keeps the entries for the test."""

    def __init__(self) -> None:
        super().__init__(None)
        self.entries: list[Entry] = []

    def write(self, entry: Entry) -> None:
        self.entries.append(entry)


async def _at_once(plan: Callable[[], JointPlan]) -> JointPlan:
    return plan()  # another thread knows no virtual time


class NodeWorld:
    """A node with `allocatable` millicores, on which other pods hold `others`; services are added as `World`s.

    Attributes:
        forbidden: the operator may not read it.
    """

    def __init__(self, allocatable: int, others: int = 0) -> None:
        self.allocatable = allocatable
        self.others: dict[str, Any] = {"metadata": {"uid": "o1"}, "spec": {"containers": [container_of(others)]}}
        self.forbidden = False
        self.worlds: list[World] = []
        self._running: set[asyncio.Task[None]] = set()
        self.metrics = Metrics(CollectorRegistry())
        self.pods = PodCache(on_change=self._pod_changed)
        clock = asyncio.get_running_loop().time
        self.nodes = NodeCoordinator(cast(Kube, self), self.pods, self.metrics, clock, run=_at_once)

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        assert (kind, namespace, name) == ("Node", "", "n1")
        if self.forbidden:
            raise ApiError(403, {"message": "nodes is forbidden"})
        return {"status": {"allocatable": {"cpu": cpu_quantity(self.allocatable)}}}

    async def pods_on(self, name: str) -> list[dict[str, Any]]:
        return copy.deepcopy([self.others, *(world.pod for world in self.worlds)])

    def hold(self, milli: int) -> None:
        """Other pods come or go."""
        self.others["spec"] = {"containers": [container_of(milli)]}

    def room_for(self, world: World) -> int:
        others = parse_cpu_milli(self.others["spec"]["containers"][0]["resources"]["requests"]["cpu"])
        return self.allocatable - others - sum(other.quota for other in self.worlds if other is not world)

    async def run(self, seconds: float) -> None:
        """Runs all controllers for so long, also across calls, and checks that the node is never overfull."""
        if not self._running:
            self._running = {asyncio.create_task(w.controller.run()) for w in self.worlds if w.controller is not None}
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            assert self.room_for(self.worlds[0]) >= self.worlds[0].quota
            done, _ = await asyncio.wait(self._running, timeout=0.01)
            for ended in done:
                ended.result()

    def joint_plans(self) -> float:
        return sum(s.value for s in next(iter(self.metrics.joint.collect())).samples if s.name.endswith("_total"))

    def _pod_changed(self, key: str) -> None:
        for world in self.worlds:
            if world.service().key == key:
                world.pod_changed()


class World:
    """A pod of `start` millicores on a node with `room` for it, whose server needs `need` millicores.

    Attributes:
        calls: what reached the API server and the control port, in order: ("patch", milli), ("apply", milli, cap).
        alive: the kubelet acts on resizes.
        late: it acts on the next one only `RELIST_S` later, unless another one comes before.
        allocatable: the node's CPU, above which the API server refuses.
        refusal: what the API server answers to a resize, or to one of so many millicores, instead of taking it.
        reachable: the server answers.
        stalled: the server does not acknowledge.
        ready: the model is loaded.
        releases: the server takes releases.
        idle_since: when the last request ended; None while there are some.
        memory: what the server reports of its memory.
        profile: what the server reports of its profile.
        sources: what the server has loaded.
        starting: the server answers that it is not ready.
    """

    def __init__(
        self, start: int = 500, room: int = 16_000, name: str = "digits", node: NodeWorld | None = None, **spec: Any
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.calls: list[tuple[Any, ...]] = []
        self.times: list[float] = []
        self.need = start
        self.urgent_need: int | None = None
        self.room = room
        self.quota = start
        self.alive = True
        self.late = False
        self.refusal: ApiError | Callable[[int], ApiError | None] | None = None
        self.allocatable = 16_000
        self.reachable = True
        self.stalled = False
        self.idle_since: float | None = None
        self.memory: MemoryState | None = None
        self.profile = ProfileReport(origin="given", cpu_type="x86-64")
        self.sources = SourcesDouble()
        self.starting = False
        self.version = 0
        self.applied: ApplyRequest | None = None
        self.message_version = 0
        self.ready = self.releases = True
        self.events: list[tuple[str, str, str]] = []
        self.news = asyncio.Event()
        self.body: dict[str, Any] = {
            "metadata": {"name": name, "namespace": "team-a", "uid": "s1", "generation": 1},
            "spec": {
                "model": {"name": "digits", "source": "digits://"},
                "slo": {"latency": "300ms"},
                "cpu": {"min": "250m", "max": "1500m", "step": "125m"},
                **spec,
            },
        }
        self.node = node
        self.pods = PodCache(on_change=lambda _: self.pod_changed()) if node is None else node.pods
        self.decisions = KeptLog()
        metrics = Metrics(CollectorRegistry()) if node is None else node.metrics
        kube = cast(Kube, ApiServerDouble(self))
        self.context = Context(
            settings=OperatorSettings(),
            kube=kube,
            control=cast(ControlClient, ControlPortDouble(self)),
            pods=self.pods,
            replica_sets=ReplicaSets(),
            rivals=Rivals(lambda _: None),
            nodes=NodeCoordinator(kube, self.pods, metrics, self.loop.time) if node is None else node.nodes,
            metrics=metrics,
            decision_log=self.decisions,
            budget=ResizeBudget(100.0),
            clock=self.loop.time,
            wall=lambda: 1_000_000.0 + self.loop.time(),
        )
        self.controller: PodController | None = None
        self.pod = pod_of(start, name)
        if node is not None:
            self.pod["spec"]["nodeName"] = "n1"
            node.worlds.append(self)
        self.pods.update(self.pod)
        events = Events(lambda *event: self.events.append(event), self.loop.time)
        self.controller = PodController(
            self.context, events, self.service, f"p-{name}", f"{name}-1", lambda: ("token",), lambda: None, lambda: None
        )

    def service(self) -> SpongeService:
        return parse_service(self.body)

    def target(self) -> PodTarget:
        """The pod as the control loop resizes it."""
        context, metadata = self.context, self.pod["metadata"]
        return PodTarget(
            context.kube,
            context.control,
            context.pods,
            context.clock,
            uid=metadata["uid"],
            name=metadata["name"],
            tokens=lambda: ("token",),
            trust=lambda: None,
        )

    def annotate(self, **annotations: str) -> None:
        self.body["metadata"]["annotations"] = annotations

    def change(self, need: int, *, urgent: bool = True) -> None:
        """The load changes; an urgent need answers the long poll."""
        self.need = need
        self.idle_since = None
        if urgent:
            self.news.set()

    async def run(self, seconds: float) -> None:
        """Runs the controller for so long."""
        assert self.controller is not None
        task = asyncio.create_task(self.controller.run())
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait({task})

    def patches(self) -> list[int]:
        return [call[1] for call in self.calls if call[0] == "patch"]

    def outcomes(self) -> dict[str, int]:
        samples = next(iter(self.context.metrics.resizes.collect())).samples
        return {s.labels["outcome"]: int(s.value) for s in samples if s.name.endswith("_total") and s.value}

    def snapshot(self) -> StateSnapshot:
        self.version += 1
        in_force = min(self.quota, self.applied.cores_milli if self.applied else self.quota)
        cpu = self.service().spec.cpu
        most = self.applied.sizes.max_milli if self.applied and self.applied.sizes else cpu.max
        sizes = range(cpu.min, most + 1, cpu.step)
        urgent = in_force < self.need and in_force < most
        return StateSnapshot(
            version=self.version,
            applied_version=self.message_version,
            applied_milli=self.applied.cores_milli if self.applied else None,
            now_s=self.loop.time(),
            ready=self.ready,
            draining=False,
            models=["digits"],
            cores_milli=in_force,
            cpu_quota_milli=self.quota,
            thread_budget=1,
            threads_running=0,
            batch_cap=self.applied.batch_cap if self.applied else 8,
            lanes=[],
            queue_length=0,
            queue_slack_s=[],
            uploads_in_flight=0,
            arrival_rate_rps=1.0,
            remaining_slo_s=[],
            outcomes={"in_time": 1},
            latency_p99_s=0.1,
            throttled_s=0.0,
            prediction_ratio=1.0,
            idle_for_s=0.0 if self.idle_since is None else self.loop.time() - self.idle_since,
            urgent=urgent,
            memory=self.memory,
            frontier=[
                FrontierPoint(cores_milli=milli, batch_cap=8, misses=max(0, self.need - milli) / 100) for milli in sizes
            ],
        )

    def record(self, *call: Any) -> None:
        self.calls.append(call)
        self.times.append(self.loop.time())

    async def kubelet(self, pod: dict[str, Any]) -> None:
        """Carries out the resize that the spec of `pod` requests."""
        await asyncio.sleep(KUBELET_S)
        if self.late:
            self.late = False
            await asyncio.sleep(RELIST_S)
        if not self.alive or self.pod["metadata"]["generation"] != pod["metadata"]["generation"]:
            return
        limits = pod["spec"]["containers"][0]["resources"]["limits"]
        wanted, memory = parse_cpu_milli(limits["cpu"]), parse_bytes(limits["memory"])
        conditions = []
        if self.memory is not None and memory <= self.memory.used:
            conditions = [
                {
                    "type": "PodResizeInProgress",
                    "status": "True",
                    "reason": "Error",
                    "message": "cannot decrease memory limits: below current usage",
                    "observedGeneration": pod["metadata"]["generation"],
                }
            ]
            wanted = 1 << 30  # the CPU waits too
        room = self.room if self.node is None else self.node.room_for(self)
        if wanted <= room:
            self.quota = wanted
            if self.memory is not None:
                self.memory = self.memory.model_copy(update={"limit": memory})
        elif not conditions:
            sums = f"requested: {wanted}, used: {16_000 - room}, capacity: 16000"
            conditions = [
                {
                    "type": "PodResizePending",
                    "status": "True",
                    "reason": "Deferred",
                    "message": f"Node didn't have enough resource: cpu, {sums}",
                    "observedGeneration": pod["metadata"]["generation"],
                }
            ]
        await asyncio.sleep(STATUS_S)
        status = self.pod["status"]
        status["observedGeneration"] = pod["metadata"]["generation"]
        others = [one for one in status["conditions"] if not one["type"].startswith("PodResize")]
        status["conditions"] = others + conditions
        for kind in ("limits", "requests"):
            status["containerStatuses"][0]["resources"][kind]["cpu"] = cpu_quantity(self.quota)
            if wanted == self.quota:
                status["containerStatuses"][0]["resources"][kind]["memory"] = limits["memory"]
        self.touch()

    def restart(self, *, running: bool = True) -> None:
        """The container is killed; the server answers again after `come_up`."""
        container = self.pod["status"]["containerStatuses"][0]
        container["restartCount"] += 1
        container["ready"], self.reachable, self.applied, self.message_version = False, False, None, 0
        container["state"] = {"running": {}} if running else {"waiting": {"reason": "CrashLoopBackOff"}}
        self.touch()

    def come_up(self) -> None:
        """The server is ready again."""
        container = self.pod["status"]["containerStatuses"][0]
        container["state"], container["ready"], self.reachable, self.ready = {"running": {}}, True, True, True
        self.touch()

    def touch(self) -> None:
        """Reports the present pod through the watch."""
        self.pod["metadata"]["resourceVersion"] = str(int(self.pod["metadata"]["resourceVersion"]) + 1)
        self.pods.update(copy.deepcopy(self.pod))

    def pod_changed(self) -> None:
        if self.controller is not None:
            self.controller.pod_changed()
