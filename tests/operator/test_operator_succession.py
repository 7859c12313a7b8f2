"""When the operator stops: the next one finds the pods as they are, or they are left large enough."""

from __future__ import annotations

from typing import Any, cast

import pytest
from operator_cluster import Cluster
from operator_world import World
from virtual_time import VirtualLoop, run_virtual

from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.clients.tokens import Tokens
from sponge_operator.clients.trust import Trust
from sponge_operator.context import Events
from sponge_operator.reconcile.pods import ServicePods
from sponge_operator.reconcile.succession import has_successor

DEPLOYMENT = "team-a/sponge-operator"


@pytest.mark.parametrize(
    ("replicas", "metadata", "successor"),
    [(1, {}, True), (2, {}, True), (0, {}, False), (1, {"deletionTimestamp": "2026-11-29T12:00:00Z"}, False)],
)
def test_a_deployment_that_goes_on_brings_the_next_operator(
    replicas: int, metadata: dict[str, Any], successor: bool
) -> None:
    async def scenario(_: VirtualLoop) -> None:
        cluster = Cluster()
        cluster.put("Deployment", "sponge-operator", **metadata)["spec"] = {"replicas": replicas}
        assert await has_successor(cast(Kube, cluster), DEPLOYMENT) is successor

    run_virtual(scenario)


def test_without_a_deployment_nobody_follows_and_one_that_cannot_be_read_goes_on() -> None:
    async def scenario(_: VirtualLoop) -> None:
        cluster = Cluster()
        kube = cast(Kube, cluster)
        assert await has_successor(kube, None) is False
        assert await has_successor(kube, DEPLOYMENT) is False
        cluster.silent.add("Deployment")
        assert await has_successor(kube, DEPLOYMENT) is True

    run_virtual(scenario)


def test_a_deployment_that_cannot_be_read_at_first_is_read_again() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cluster = Cluster()
        cluster.put("Deployment", "sponge-operator")["spec"] = {"replicas": 0}
        cluster.silent.add("Deployment")
        loop.call_later(2.0, cluster.silent.clear)
        assert await has_successor(cast(Kube, cluster), DEPLOYMENT) is False

    run_virtual(scenario)


@pytest.mark.parametrize(
    ("start", "fallback", "patches"),
    [(50, None, [1000]), (50, "500m", [500]), (250, "250m", []), (1500, None, []), (500, "1500m", [1500])],
)
def test_pods_that_are_left_have_at_least_the_fallback_size(
    start: int, fallback: str | None, patches: list[int]
) -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = left(start, {} if fallback is None else {"fallback": fallback})
        await pods_of(world).fall_back()
        assert world.calls == [*(("patch", milli) for milli in patches), ("release",)]

    run_virtual(scenario)


@pytest.mark.parametrize("answer", [ApiError(0, {"message": "no answer"}), ApiError(429, {}), ApiError(500, {})])
def test_a_last_size_that_is_refused_is_asked_for_again(answer: ApiError) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = left(50, {})
        world.refusal = answer

        def accept() -> None:
            world.refusal = None

        loop.call_later(1.0, accept)
        await pods_of(world).fall_back()
        assert world.patches()[-1] == 1000
        assert world.calls[-1] == ("release",)

    run_virtual(scenario)


def test_where_the_last_size_is_too_large_the_pod_gets_what_is_possible() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = left(50, {"fallback": "1500m"})
        world.allocatable = 800
        await pods_of(world).fall_back()
        assert world.patches() == [1500, 800]

    run_virtual(scenario)


def test_a_pod_that_is_just_being_shrunk_is_left_large_enough() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = left(1500, {})
        world.alive = False
        await world.target().set_quota(250)
        world.calls.clear()
        await pods_of(world).fall_back()
        assert world.patches() == [1000]

    run_virtual(scenario)


def test_a_server_that_is_not_reached_gets_its_size_all_the_same() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = left(50, {})
        world.reachable = False
        await pods_of(world).fall_back()
        assert world.calls == [("patch", 1000)]

    run_virtual(scenario)


@pytest.mark.parametrize("how", ["Off", "Recommend", "true", "grow"])
def test_pods_that_nobody_sized_are_left_as_they_are(how: str) -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = left(50, {})
        if how in ("true", "grow"):
            world.annotate(**{"serving.sponge.dev/paused": how})
        else:
            world.body["spec"]["mode"] = how
        await pods_of(world).fall_back()
        assert world.calls == []

    run_virtual(scenario)


def left(start: int, cpu: dict[str, str]) -> World:
    return World(start=start, cpu={"min": "250m", "max": "1500m", "step": "125m", "idle": "50m", **cpu})


def pods_of(world: World) -> ServicePods:
    events = Events(lambda *event: world.events.append(event), world.loop.time)
    tokens = Tokens()
    tokens.learn("token")
    pods = ServicePods(world.context, events, world.service, tokens, Trust(), lambda: None)
    pods._own = [world.pod]
    return pods
