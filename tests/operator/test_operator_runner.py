"""Services come, fail, are orphaned and go; pods that stay behind get their startup size, whoever saw it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar, cast

import pytest
from operator_world import World
from prometheus_client import CollectorRegistry
from test_operator_models import body
from virtual_time import VirtualLoop, run_virtual

from sponge_core.errors import SpongeError
from sponge_operator.clients.pods import PodCache
from sponge_operator.context import Context
from sponge_operator.metrics import Metrics
from sponge_operator.reconcile import operator as operator_module
from sponge_operator.reconcile import runner as runner_module
from sponge_operator.reconcile.operator import SWEEP_S, Operator
from sponge_operator.reconcile.runner import FORMER_FINALIZER, RETRY_S, ServiceRunner
from sponge_operator.resources.front_manifests import FRONT_LABEL
from sponge_operator.resources.manifests import SERVICE_LABEL
from sponge_operator.settings import OperatorSettings


class FakeReconciler:
    """Runs until it is stopped; records what is done with it."""

    made: ClassVar[list[FakeReconciler]] = []
    fails: ClassVar[list[Exception]] = []

    def __init__(self, context: Context, events: Any, manifest: Mapping[str, Any]) -> None:
        if self.fails:
            raise self.fails.pop()
        self.body = manifest
        self.calls: list[str] = []
        self.made.append(self)

    async def run(self, stopped: Callable[[], Awaitable[bool]]) -> bool:
        try:
            return await stopped()
        finally:
            self.calls.append("ended")

    async def restore(self) -> None:
        self.calls.append("restored")

    async def fall_back(self) -> None:
        self.calls.append("fallen back")

    def wake(self) -> None:
        self.calls.append("woken")

    def service_seen(self) -> None:
        self.calls.append("seen")

    def child_seen(self, kind: str, child: Mapping[str, Any] | None) -> None:
        self.calls.append(f"{kind} {'gone' if child is None else 'changed'}")

    def front_seen(self, kind: str, child: Mapping[str, Any] | None) -> None:
        self.calls.append(f"front's {kind} {'gone' if child is None else 'changed'}")

    def tick(self, now: float) -> None:
        return


@pytest.fixture(autouse=True)
def fake_reconciler(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeReconciler.made.clear()
    FakeReconciler.fails.clear()
    monkeypatch.setattr(runner_module, "ServiceReconciler", FakeReconciler)


class FakeKube:
    def __init__(self) -> None:
        self.merged: list[Mapping[str, Any]] = []

    async def write_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> None:
        return

    async def merge(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        assert (kind, name) == ("SpongeService", "digits")
        self.merged.append(patch)
        return {}


def seen(*, version: int = 1, uid: str = "u-1", **metadata: Any) -> dict[str, Any]:
    manifest = body()
    manifest["metadata"] |= {"resourceVersion": str(version), "uid": uid, **metadata}
    return manifest


def runner(manifest: dict[str, Any], kube: FakeKube | None = None) -> tuple[ServiceRunner, list[str]]:
    posted: list[str] = []
    world = World(start=500)
    context = cast(Any, world.context)
    object.__setattr__(context, "kube", kube or FakeKube())
    return ServiceRunner(context, lambda _body, _kind, reason, _message: posted.append(reason), manifest), posted


def test_a_service_runs_until_it_is_gone_and_sees_its_newest_version() -> None:
    async def scenario(_: VirtualLoop) -> None:
        service, _posted = runner(seen())
        await asyncio.sleep(1)
        service.seen(seen(version=2))
        (made,) = FakeReconciler.made
        assert made.body["metadata"]["resourceVersion"] == "2"
        await service.stop()
        assert made.calls == ["seen", "ended"]

    run_virtual(scenario)


def test_orphaned_pods_are_restored_before_the_service_is_gone() -> None:
    async def scenario(_: VirtualLoop) -> None:
        service, _posted = runner(seen())
        await asyncio.sleep(1)
        service.seen(seen(version=2, deletionTimestamp="now", finalizers=["orphan"]))
        await service.stop()  # gone at once
        assert FakeReconciler.made[0].calls == ["seen", "ended", "restored"]

    run_virtual(scenario)


@pytest.mark.parametrize("finalizers", [[], ["foregroundDeletion"], ["somebody.else/has-work"]])
def test_pods_that_are_deleted_too_are_not_restored(finalizers: list[str]) -> None:
    async def scenario(_: VirtualLoop) -> None:
        service, _posted = runner(seen())
        await asyncio.sleep(1)
        service.seen(seen(version=2, deletionTimestamp="now", finalizers=finalizers))
        await asyncio.sleep(1)
        assert FakeReconciler.made[0].calls == ["seen"], "driven to the end"
        await service.stop()
        assert FakeReconciler.made[0].calls == ["seen", "ended"]

    run_virtual(scenario)


def test_a_reconciler_that_fails_starts_again_after_a_while_or_a_change() -> None:
    async def scenario(_: VirtualLoop) -> None:
        FakeReconciler.fails += [ZeroDivisionError(), SpongeError("spec.cpu: no"), SpongeError("spec.cpu: no")]
        service, posted = runner(seen())
        await asyncio.sleep(RETRY_S + 1)
        assert (FakeReconciler.made, posted) == ([], ["InvalidSpec", "NotReady"])
        service.seen(seen(version=2))
        await asyncio.sleep(0.1)
        assert FakeReconciler.made == []
        await asyncio.sleep(RETRY_S)
        assert len(FakeReconciler.made) == 1
        await service.stop()

    run_virtual(scenario)


def test_the_finalizer_of_former_versions_is_removed() -> None:
    async def scenario(_: VirtualLoop) -> None:
        kube = FakeKube()
        service, _posted = runner(seen(finalizers=[FORMER_FINALIZER, "else"]), kube)
        await asyncio.sleep(1)
        assert kube.merged == [{"metadata": {"finalizers": ["else"], "resourceVersion": "1"}}]
        service.seen(seen(version=2, finalizers=["else"]))
        service.seen(seen(version=3, finalizers=["else", FORMER_FINALIZER]))
        await asyncio.sleep(1)
        assert kube.merged[1:] == [{"metadata": {"finalizers": ["else"], "resourceVersion": "3"}}]
        await service.stop()

    run_virtual(scenario)


def test_pods_without_a_service() -> None:
    def pod(service: str, **metadata: Any) -> dict[str, Any]:
        labels = {"serving.sponge.dev/service": service}
        given = {"name": service, "namespace": "team-a", "uid": service, "resourceVersion": "1", "labels": labels}
        return {"metadata": given | metadata}

    cache = PodCache(lambda _: None)
    for one in (pod("a"), pod("b"), pod("c", deletionTimestamp="now")):
        cache.update(one)
    assert [one["metadata"]["name"] for one in cache.without_service({"team-a/a"})] == ["b"]


class FakeCluster:
    """The API server of `Operator`."""

    def __init__(self) -> None:
        self.services: list[dict[str, Any]] = []
        self.resized: list[int] = []

    async def __aenter__(self) -> FakeCluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def check_crd(self) -> None:
        return

    async def core_resources(self) -> set[str]:
        return {"pods/resize"}

    async def may(self, *_: str) -> bool:
        return True

    async def list(self, kind: str, namespace: str | None) -> Sequence[dict[str, Any]]:
        assert namespace is None
        return self.services if kind == "SpongeService" else []

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        assert (kind, namespace, name) == ("SpongeService", "team-a", "digits")
        return None

    async def resize(self, pod: Mapping[str, Any], container: str, milli: int, memory: int | None) -> Mapping[str, Any]:
        self.resized.append(milli)
        return pod


def test_pods_left_behind_while_no_operator_looked_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(_: VirtualLoop) -> None:
        pod = World(start=250).pod
        pod["metadata"].setdefault("annotations", {})["serving.sponge.dev/startup-cpu"] = "1"
        async with running(monkeypatch) as (operator, cluster):
            operator.pod_seen(pod, gone=False)
            await asyncio.sleep(1.5 * SWEEP_S)
            assert cluster.resized == [], "it may be on its way out"
            await asyncio.sleep(SWEEP_S)
            assert cluster.resized == [1000]

    run_virtual(scenario)


def test_a_service_that_went_while_the_watch_was_interrupted_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(_: VirtualLoop) -> None:
        async with running(monkeypatch) as (operator, cluster):
            cluster.services = [seen()]
            operator.service_seen(seen(), gone=False)
            await asyncio.sleep(3 * SWEEP_S)
            assert FakeReconciler.made[0].calls == []
            cluster.services = []
            await asyncio.sleep(1.5 * SWEEP_S)
            assert FakeReconciler.made[0].calls == ["ended"]

    run_virtual(scenario)


def test_an_object_s_label_says_of_which_service_it_is_or_of_whose_front(monkeypatch: pytest.MonkeyPatch) -> None:
    def labelled(label: str, service: str) -> dict[str, Any]:
        return {"metadata": {"namespace": "team-a", "labels": {label: service}}}

    async def scenario(_: VirtualLoop) -> None:
        async with running(monkeypatch) as (operator, _cluster):
            operator.service_seen(seen(), gone=False)
            await asyncio.sleep(1)
            operator.child_seen("Service", labelled(SERVICE_LABEL, "digits"), gone=False)
            operator.child_seen("Service", labelled(FRONT_LABEL, "digits"), gone=False)
            operator.child_seen("RoleBinding", labelled(FRONT_LABEL, "digits"), gone=True)
            operator.child_seen("Service", labelled(FRONT_LABEL, "another"), gone=True)
            operator.child_seen("Service", labelled("app", "digits"), gone=True)
            assert FakeReconciler.made[0].calls == [
                *("Service changed", "front's Service changed", "front's RoleBinding gone")
            ]

    run_virtual(scenario)


def test_a_service_of_the_same_name_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(_: VirtualLoop) -> None:
        async with running(monkeypatch) as (operator, _cluster):
            operator.service_seen(seen(), gone=False)
            await asyncio.sleep(1)
            operator.service_seen(seen(uid="u-2"), gone=False)
            operator.service_seen(seen(), gone=True)  # late news of the former one
            await asyncio.sleep(1)
            assert [made.calls for made in FakeReconciler.made] == [["ended"], []]

    run_virtual(scenario)


def test_only_an_operator_without_a_successor_leaves_last_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(_: VirtualLoop) -> None:
        for follows, expected in ((True, ["ended"]), (False, ["ended", "fallen back"])):
            FakeReconciler.made.clear()
            async with running(monkeypatch, follows=follows) as (operator, _cluster):
                operator.service_seen(seen(), gone=False)
                await asyncio.sleep(1)
            assert FakeReconciler.made[0].calls == expected

    run_virtual(scenario)


def test_no_loop_outlives_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(_: VirtualLoop) -> None:
        async with running(monkeypatch) as (operator, _cluster):
            operator.service_seen(seen(), gone=False)
            await asyncio.sleep(1)
        assert FakeReconciler.made[0].calls == ["ended"]
        operator.service_seen(seen(uid="u-2"), gone=False)
        await asyncio.sleep(1)
        assert len(FakeReconciler.made) == 1

    run_virtual(scenario)


@asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch, *, follows: bool = True
) -> AsyncIterator[tuple[Operator, FakeCluster]]:
    async def has_successor(*_: object) -> bool:
        return follows

    cluster = FakeCluster()
    monkeypatch.setattr(operator_module, "has_successor", has_successor)
    monkeypatch.setattr(operator_module, "Kube", lambda may_act: cluster)
    async with Operator(OperatorSettings(), Metrics(CollectorRegistry())) as operator:
        task = asyncio.create_task(operator.run())
        yield operator, cluster
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
