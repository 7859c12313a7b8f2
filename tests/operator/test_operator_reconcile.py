"""One service in virtual time, from its manifest to its status, with an API server in memory."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from operator_cluster import Cluster
from operator_doubles import SourcesDouble
from operator_world import KeptLog
from prometheus_client import CollectorRegistry
from test_operator_models import body
from test_operator_status import snapshot
from virtual_time import VirtualLoop, run_virtual

from sponge_core.control_api import ApplyRequest, FrontierPoint, ReleaseRequest, SourceReport
from sponge_operator.autoscale.resize_budget import ResizeBudget
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.clients.pods import PodCache
from sponge_operator.clients.replica_sets import ReplicaSets
from sponge_operator.clients.rivals import Rivals
from sponge_operator.clients.server import ControlClient
from sponge_operator.context import Context, Events
from sponge_operator.metrics import Metrics
from sponge_operator.node.coordinator import NodeCoordinator
from sponge_operator.reconcile.service import ServiceReconciler
from sponge_operator.settings import OperatorSettings


class Servers:
    """Stands for `ControlClient`: every server is ready and content, and its load takes `load_cores`."""

    def __init__(self) -> None:
        self.tokens: set[str] = set()
        self.urls: set[str] = set()
        self.version = self.applied = 0
        self.held = False  # somebody applies sizes
        self.load_cores: float | None = None
        self.idle_for_s = 0.0
        self.answers = False  # requests, so that every state is news
        self.sources: dict[str, SourcesDouble] = defaultdict(SourcesDouble)  # by URL

    async def state(self, base_url: str, token: str, since: int = 0, wait_s: float = 0.0, tls: Any = None) -> Any:
        self.tokens.add(token)
        self.urls.add(base_url)
        await asyncio.sleep(wait_s)
        self.version += 1
        content = FrontierPoint(cores_milli=250, batch_cap=8, misses=0)
        sizes = {"cores_milli": 250, "cpu_quota_milli": 250, "applied_milli": 250 if self.held else None}
        answered = {"in_time": self.version} if self.answers else {}
        load = {"load_cores": self.load_cores, "idle_for_s": self.idle_for_s, "outcomes": answered}
        return snapshot(version=self.version, applied_version=self.applied, **sizes, **load, frontier=[content])

    async def source(self, base_url: str, token: str, model: str, wanted: str | None, tls: Any = None) -> SourceReport:
        return self.sources[base_url].ask(wanted)

    async def apply(self, base_url: str, token: str, request: ApplyRequest, timeout_s: float, tls: Any = None) -> None:
        self.tokens.add(token)
        self.applied = request.version
        self.held = True

    async def release(self, base_url: str, token: str, request: ReleaseRequest, tls: Any = None) -> None:
        self.applied = request.version
        self.held = False


class World:
    """One service, its cluster and its reconciler."""

    def __init__(self, loop: VirtualLoop, **spec: Any) -> None:
        self.loop = loop
        self.cluster = Cluster()
        self.servers = Servers()
        self.events: list[tuple[str, str, str]] = []
        self.body = body(**spec)
        self.pods = PodCache(lambda _: self.reconciler.wake())
        self.rivals = Rivals(lambda _: self.reconciler.wake())
        kube, metrics = cast(Kube, self.cluster), Metrics(CollectorRegistry())
        self.context = Context(
            settings=OperatorSettings(),
            kube=kube,
            control=cast(ControlClient, self.servers),
            pods=self.pods,
            replica_sets=ReplicaSets(),
            rivals=self.rivals,
            nodes=NodeCoordinator(kube, self.pods, metrics, loop.time),
            metrics=metrics,
            decision_log=KeptLog(),
            budget=ResizeBudget(100.0),
            clock=loop.time,
            wall=lambda: 1_000_000.0 + loop.time(),
        )
        self.reconciler = ServiceReconciler(
            self.context, Events(lambda *event: self.events.append(event), loop.time), self.body
        )

    async def run(self, seconds: float) -> None:
        stop = asyncio.Event()

        async def stopped() -> bool:
            await stop.wait()
            return False

        self.task = asyncio.create_task(self.reconciler.run(stopped))
        await self.go_on(seconds)
        stop.set()
        await self.task

    async def go_on(self, seconds: float) -> None:
        until = self.loop.time() + seconds
        while self.loop.time() < until:
            await asyncio.sleep(min(1.0, until - self.loop.time()))
            self.reconciler.tick(self.loop.time())
            assert not self.task.done()

    def roll_out(self, pods: int, first: int = 0, **condition: str) -> None:
        """The Deployment controller and the kubelet do their work for so many pods, of which `first` is the first."""
        metadata = self.cluster.objects["Deployment", "digits"]["metadata"]
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), pods)
        counts["observedGeneration"] = metadata["generation"]
        status = {**counts, "conditions": [condition] if condition else []}
        deployment = self.cluster.report("Deployment", "digits", status)
        self.reconciler.child_seen("Deployment", deployment)
        owner = {"kind": "Deployment", "uid": metadata["uid"], "controller": True}
        self.context.replica_sets.seen({"metadata": {"uid": "rs", "ownerReferences": [owner]}}, gone=False)
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        for number in range(first, first + pods):
            made = pod(number)
            made["spec"]["containers"][0]["env"] = container["env"]
            self.pods.update(made)

    def condition(self, kind: str) -> tuple[str, str]:
        status = next(status for call, status in reversed(self.cluster.calls) if call == "status")
        return next((c["status"], c["reason"]) for c in status["conditions"] if c["type"] == kind)


def pod(number: int, owner: str | None = "rs", **status: Any) -> dict[str, Any]:
    size = {"cpu": "250m", "memory": "1Gi"}
    owners = [] if owner is None else [{"kind": "ReplicaSet", "uid": owner, "controller": True}]
    return {
        "metadata": {
            "name": f"digits-{number}",
            "namespace": "team-a",
            "uid": f"p{number}",
            "generation": 1,
            "resourceVersion": str(10 + number),
            "creationTimestamp": f"2026-01-01T00:00:{number:02}Z",
            "labels": {"serving.sponge.dev/service": "digits"},
            "ownerReferences": owners,
        },
        "spec": {"containers": [{"name": "server", "resources": {"limits": size, "requests": size}}]},
        "status": {
            "phase": "Running",
            "podIP": f"10.0.0.{number}",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "server", "state": {"running": {}}, "resources": {"limits": size}}],
            **status,
        },
    }


def scenario(act: Callable[[World], Awaitable[None]], **spec: Any) -> World:
    """Runs a service for a minute, `act` beside it."""
    worlds: list[World] = []

    async def run(loop: VirtualLoop) -> None:
        world = World(loop, **spec)
        worlds.append(world)
        running = asyncio.create_task(world.run(60.0))
        await asyncio.sleep(0.5)
        await act(world)
        await running

    run_virtual(run)
    return worlds[0]


def test_a_service_becomes_ready_and_then_costs_nothing() -> None:
    async def act(world: World) -> None:
        assert world.condition("Ready") == ("False", "NoPods")
        world.roll_out(1)
        await asyncio.sleep(5.0)
        assert world.condition("Ready") == ("True", "PodsReady")
        world.cluster.calls.clear()

    world = scenario(act)
    assert world.cluster.calls == []
    told = [event[1] for event in world.events]
    assert (told.count("Applied"), told[-1]) == (1, "Ready")


def test_fewer_pods_than_wanted_stay_driven_and_the_status_says_why() -> None:
    async def act(world: World) -> None:
        quota = "pods is forbidden: exceeded quota: q"
        world.roll_out(2, type="ReplicaFailure", status="True", reason="FailedCreate", message=quota)

    world = scenario(act, replicas={"min": 3, "max": 3})
    assert world.condition("Ready") == ("False", "FailedCreate")
    assert world.condition("Planning") == ("True", "Auto")
    assert world.servers.urls == {"http://10.0.0.0:9090", "http://10.0.0.1:9090"}


@pytest.mark.parametrize("owner", [None, "other"])
def test_a_pod_of_somebody_else_gets_no_token(owner: str | None) -> None:
    async def act(world: World) -> None:
        world.roll_out(1)
        world.pods.update(pod(7, owner))

    world = scenario(act)
    assert world.servers.urls == {"http://10.0.0.0:9090"}
    assert world.condition("Ready") == ("True", "PodsReady")


def test_a_pod_without_address_costs_nothing_and_its_reason_is_told() -> None:
    async def act(world: World) -> None:
        world.roll_out(0)
        waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
        world.pods.update(pod(0, phase="Pending", podIP=None, conditions=[waits]))
        await asyncio.sleep(2.0)
        assert world.condition("Ready") == ("False", "Unschedulable")
        world.cluster.calls.clear()

    world = scenario(act)
    assert world.servers.urls == set()
    assert [kind for call, kind in world.cluster.calls if call != "status" and kind != "Pod"] == []
    assert world.cluster.count("get") <= 3


def test_a_pod_that_waits_for_its_secret_gets_one() -> None:
    async def act(world: World) -> None:
        world.roll_out(1)
        await asyncio.sleep(5.0)
        world.cluster.calls.clear()
        del world.cluster.objects["Secret", "digits-sponge-control"]
        waits = pod(1, phase="Pending", podIP=None, conditions=[])
        waits["spec"]["nodeName"] = "n1"
        world.pods.update(waits)
        await asyncio.sleep(2.0)
        assert ("Secret", "digits-sponge-control") in world.cluster.objects

    world = scenario(act)
    assert len(world.servers.tokens) == 1, "it is the token from before"
    assert world.cluster.count("get", "Secret") <= 8, "it waits on, and is looked after ever less often"


def test_another_autoscaler_is_noticed_at_once_and_given_way() -> None:
    target = {"kind": "Deployment", "apiVersion": "apps/v1", "name": "digits"}
    hpa = {"metadata": {"namespace": "team-a", "name": "h", "uid": "h"}, "spec": {"scaleTargetRef": target}}

    async def act(world: World) -> None:
        world.roll_out(1)
        await asyncio.sleep(2.0)
        assert world.servers.held
        world.rivals.seen("HorizontalPodAutoscaler", hpa)
        await asyncio.sleep(0.1)
        assert world.condition("Conflict") == ("True", "OtherAutoscaler")
        assert world.condition("Planning") == ("False", "Conflict")
        await asyncio.sleep(2.0)
        assert not world.servers.held, "it is let go, so that it follows its limit, whoever sets it"
        world.rivals.seen("HorizontalPodAutoscaler", hpa, gone=True)
        await asyncio.sleep(0.1)
        assert world.condition("Conflict") == ("False", "NoConflict")
        await asyncio.sleep(2.0)
        assert world.servers.held

    scenario(act)


@pytest.mark.parametrize("step", ["_keep_children", "_follow_access", "_follow_pods"])
def test_a_fault_in_one_step_is_told_and_stops_no_other(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(world: World) -> None:
        world.roll_out(1)
        await asyncio.sleep(2.0)

        def fail(*_: object) -> None:
            raise KeyError("unforeseen")

        monkeypatch.setattr(world.reconciler, step, fail)
        world.body["metadata"]["generation"] += 1
        world.reconciler.wake()
        await asyncio.sleep(0.5)
        assert world.condition("Synced") == ("False", "InternalError")
        assert ("Warning", "InternalError") in {event[:2] for event in world.events}
        monkeypatch.undo()
        world.body["metadata"]["generation"] += 1
        world.reconciler.wake()
        await asyncio.sleep(0.5)
        assert world.condition("Synced") == ("True", "Applied")

    world = scenario(act)
    assert sum(s.value for s in next(iter(world.context.metrics.faults.collect())).samples) >= 1


def test_a_status_that_cannot_be_built_is_told_and_pods_are_driven(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StopIteration

    monkeypatch.setattr("sponge_operator.reconcile.status_writer.build_status", fail)

    async def act(world: World) -> None:
        world.roll_out(1)

    world = scenario(act)
    assert world.condition("Ready") == ("Unknown", "InternalError")
    assert world.servers.urls


def test_a_pod_that_lost_its_label_while_nobody_watched_is_found() -> None:
    async def act(world: World) -> None:
        world.roll_out(1)
        released = pod(7)
        world.pods.update(pod(7, podIP=None, conditions=[]))
        released["metadata"].update(labels={}, resourceVersion="99")
        world.cluster.objects["Pod", "digits-7"] = released

    world = scenario(act)
    assert world.pods.get("p7") is None
    assert world.pods.get("p0") is not None


def fronts_told(world: World) -> dict[str, float]:
    """What the metrics say of the service's front: counts by state, and 1 by the reason why it is not ready."""
    metrics = world.context.metrics
    families = [next(iter(gauge.collect())) for gauge in (metrics.fronts, metrics.front_not_ready)]
    samples = [each for family in families for each in family.samples]
    return {each.labels.get("state") or each.labels["reason"]: each.value for each in samples}


def test_a_front_is_told_and_an_object_of_it_that_is_deleted_comes_back() -> None:
    async def act(world: World) -> None:
        assert world.condition("FrontReady") == ("False", "RollingOut")
        assert fronts_told(world) == {"wanted": 2, "ready": 0, "RollingOut": 1}
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "observedGeneration"), 2)
        world.reconciler.front_seen("Deployment", world.cluster.report("Deployment", "digits-front", counts))
        await asyncio.sleep(2.0)
        assert world.condition("FrontReady") == ("True", "FrontsReady")
        assert fronts_told(world) == {"wanted": 2, "ready": 2}
        del world.cluster.objects["RoleBinding", "digits-front"]
        world.reconciler.front_seen("RoleBinding", None)
        await asyncio.sleep(2.0)
        assert ("RoleBinding", "digits-front") in world.cluster.objects

    scenario(act, front={"replicas": 2})


def test_a_child_that_is_refused_does_not_stop_the_pods() -> None:
    async def act(world: World) -> None:
        world.roll_out(1)
        await asyncio.sleep(2.0)
        world.cluster.refusals["Service"] = ApiError(422, {"message": "no address"})
        del world.cluster.objects["Service", "digits"]
        world.reconciler.child_seen("Service", None)

    world = scenario(act)
    assert world.condition("Ready") == ("False", "ApplyFailed")
    assert world.condition("Available") == ("True", "PodsServe")
    assert world.condition("Planning") == ("True", "Auto")
    assert [event[1] for event in world.events].count("ApplyFailed") == 1
