"""A changed source in virtual time, from the edit to the status: in place, across a new operator, or by a rollout."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from operator_doubles import SourcesDouble
from test_operator_reconcile import World
from virtual_time import VirtualLoop, run_virtual

from sponge_operator.context import Events
from sponge_operator.reconcile.service import ServiceReconciler
from sponge_operator.reconcile.workload import SILENT_S
from sponge_operator.resources.source_entries import sources_of

OLD, NEW = "digits://", "file:///models/new.pt2"


def edit(world: World, source: str = NEW, **spec: Any) -> None:
    world.body["spec"]["model"]["source"] = source
    world.body["spec"].update(spec)
    world.body["metadata"]["generation"] += 1
    world.reconciler.service_seen()


def server(world: World, number: int) -> SourcesDouble:
    return world.servers.sources[f"http://10.0.0.{number}:9090"]


def starts_with(world: World) -> dict[str, str]:
    """What containers load that start from now on, by entry."""
    return sources_of(world.cluster.objects["ConfigMap", "digits-sponge"])


def template(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.cluster.objects["Deployment", "digits"]["spec"]["template"]
    return found


def told(world: World) -> list[str]:
    return [reason for _, reason, _ in world.events if reason.startswith(("Source", "Load"))]


def scenario(act: Callable[[World], Awaitable[None]], pods: int = 1, seconds: float = 120.0, **spec: Any) -> World:
    """Runs a service with so many ready pods for so long, `act` beside it."""
    worlds: list[World] = []

    async def run(loop: VirtualLoop) -> None:
        world = World(loop, replicas={"min": pods, "max": pods}, **spec)
        worlds.append(world)
        running = asyncio.create_task(world.run(seconds))
        await asyncio.sleep(0.5)
        world.roll_out(pods)
        await asyncio.sleep(5.0)
        await act(world)
        await running

    run_virtual(run)
    return worlds[0]


def test_one_pod_after_the_other_and_no_new_template() -> None:
    before: list[dict[str, Any]] = []

    async def act(world: World) -> None:
        before.append(template(world))
        edit(world)
        await asyncio.sleep(2.0)
        assert world.condition("SourceLive") == world.condition("Ready") == ("False", "SourceLoading")
        assert world.condition("Available") == ("True", "PodsServe")
        await asyncio.sleep(5.0)
        assert (server(world, 0).serving, server(world, 1).loading) == (NEW, NEW)
        assert set(starts_with(world).values()) == {OLD}, "not before every pod has shown that it can be loaded"

    world = scenario(act, pods=2)
    first, second = server(world, 0), server(world, 1)
    assert [len(first.asked), len(second.asked)] == [1, 1]
    assert second.asked[0][1] >= first.asked[0][1] + first.takes_s
    assert template(world) == before[0]
    assert set(starts_with(world).values()) == {NEW}
    assert world.condition("Ready") == ("True", "PodsReady")
    assert world.condition("SourceLive") == ("True", "Live")
    assert told(world) == ["SourceLoading", "SourceLoading", "SourceLive"]
    status = next(status for call, status in reversed(world.cluster.calls) if call == "status")
    assert [pod["source"] for pod in status["pods"]] == [NEW, NEW]


@pytest.mark.parametrize("after_s", [0.2, 3.0, 6.0, 9.0, 12.0])
def test_an_operator_that_starts_again_goes_on_from_where_things_are(after_s: float) -> None:
    async def run(loop: VirtualLoop) -> World:
        world = World(loop, replicas={"min": 2, "max": 2})
        running = asyncio.create_task(world.run(5.5 + after_s))
        await asyncio.sleep(0.5)
        world.roll_out(2)
        await asyncio.sleep(5.0)
        before = template(world)
        edit(world)
        await running
        events = Events(lambda *event: world.events.append(event), loop.time)
        world.reconciler = ServiceReconciler(world.context, events, world.body)
        await world.run(60.0)
        assert template(world) == before
        return world

    worlds: list[World] = []

    async def kept(loop: VirtualLoop) -> None:
        worlds.append(await run(loop))

    run_virtual(kept)
    (world,) = worlds
    assert [len(server(world, number).asked) for number in (0, 1)] == [1, 1], "nothing is done twice"
    assert set(starts_with(world).values()) == {NEW}
    assert world.condition("SourceLive") == ("True", "Live")


def test_without_room_the_pods_are_replaced() -> None:
    async def act(world: World) -> None:
        before = template(world)
        server(world, 0).refuse(NEW, "both together need 1300 MiB", no_room=True)
        edit(world)
        await asyncio.sleep(10.0)
        assert template(world) != before
        assert sorted(starts_with(world).values()) == [OLD, NEW]
        server(world, 1).start_again(NEW)
        world.pods.remove({"metadata": {"uid": "p0"}})
        world.roll_out(1, first=1)

    world = scenario(act)
    assert list(starts_with(world).values()) == [NEW]
    assert world.condition("Ready") == ("True", "PodsReady")
    (rolls,) = (message for _, reason, message in world.events if reason == "SourceRolls")
    assert "digits-0: both together need 1300 MiB" in rolls
    assert "SourceLive" not in told(world)


def test_a_source_that_cannot_be_loaded_is_told_and_another_one_follows() -> None:
    async def act(world: World) -> None:
        before = template(world)
        server(world, 0).refuse(NEW, "these weights are torn")
        edit(world)
        await asyncio.sleep(10.0)
        assert world.condition("Ready") == world.condition("SourceLive") == ("False", "LoadFailed")
        assert ("Warning", "LoadFailed") in [(kind, reason) for kind, reason, _ in world.events]
        assert set(starts_with(world).values()) == {OLD}
        edit(world, "file:///models/third.pt2")
        await asyncio.sleep(15.0)
        assert template(world) == before

    world = scenario(act)
    assert server(world, 0).serving == "file:///models/third.pt2"
    assert set(starts_with(world).values()) == {"file:///models/third.pt2"}
    assert world.condition("Ready") == ("True", "PodsReady")


@pytest.mark.parametrize(
    ("spec", "rolls"),
    [
        pytest.param({"mode": "Off"}, True, id="Off: nobody talks to the servers"),
        pytest.param({"mode": "Recommend"}, False, id="Recommend: no size changes"),
        pytest.param({"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}}, True, id="other pods at the same time"),
        pytest.param({"cpu": {"min": "250m", "max": "1"}}, False, id="a range at the same time"),
    ],
)
def test_what_is_in_place(spec: dict[str, Any], rolls: bool) -> None:
    async def act(world: World) -> None:
        before = template(world)
        edit(world, **spec)
        await asyncio.sleep(20.0)
        assert (template(world) != before) == rolls
        assert bool(server(world, 0).asked) != rolls

    scenario(act)


def test_a_paused_service_changes_its_source() -> None:
    async def act(world: World) -> None:
        world.body["metadata"]["annotations"] = {"serving.sponge.dev/paused": "true"}
        edit(world)

    world = scenario(act)
    assert (server(world, 0).serving, world.condition("SourceLive")) == (NEW, ("True", "Live"))


def test_a_server_of_an_earlier_version_is_replaced() -> None:
    async def act(world: World) -> None:
        server(world, 0).closed = True
        server(world, 1).closed = True
        world.roll_out(2)
        edit(world)

    world = scenario(act, pods=2)
    assert "SourceRolls" in told(world)


def test_a_silent_server_is_replaced_after_a_while() -> None:
    async def act(world: World) -> None:
        before = template(world)
        world.pods.update(pod_without_address(world))
        edit(world)
        await asyncio.sleep(SILENT_S - 5.0)
        assert world.condition("SourceLive") == ("False", "SourceUnknown")
        assert template(world) == before
        await asyncio.sleep(10.0)
        assert template(world) != before

    world = scenario(act)
    assert "SourceRolls" in told(world)


def pod_without_address(world: World) -> dict[str, Any]:
    """The first pod, as one that is Ready, and that the operator cannot reach."""
    found = dict(world.pods.get("p0") or {})
    found["metadata"] = {**found["metadata"], "resourceVersion": "99"}
    found["status"] = {key: value for key, value in found["status"].items() if key != "podIP"}
    return found
