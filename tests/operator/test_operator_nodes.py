"""Several services on one node: with the operator's own controllers in virtual time, and the rules alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_world import NodeWorld, World
from test_operator_status import snapshot
from virtual_time import VirtualLoop, run_virtual

from sponge_core.control_api import FrontierPoint, SizeRange
from sponge_core.planning.decider import Recommendation
from sponge_operator.node.allocation import Tenant, allocate, fit, plan, points_of
from sponge_operator.node.capacity import pod_milli, view_of

SIZES = SizeRange(min_milli=250, max_milli=1500, step_milli=125)


def refused(node: NodeWorld) -> dict[str, float]:
    samples = next(iter(node.metrics.refused.collect())).samples
    return {sample.labels["service"]: sample.value for sample in samples}


def blocked(world: World) -> str | None:
    assert world.controller is not None
    found = world.controller.state.blocked
    return found.reason if found else None


def test_services_that_fit_are_not_planned_jointly() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        node = NodeWorld(4000, others=500)
        a, b = World(name="a", node=node), World(name="b", node=node)
        await node.run(3.0)
        burst = loop.time()
        loop.call_later(0.3, a.change, 1250)
        loop.call_later(0.3, b.change, 1500)
        await node.run(1.0)
        assert (a.patches(), b.patches()) == ([1250], [1500])
        assert max(a.times[1], b.times[1]) == pytest.approx(burst + 0.3, abs=2e-3)
        assert node.joint_plans() == 0
        assert refused(node) == {"a": 0.0, "b": 0.0}
        assert (blocked(a), blocked(b)) == (None, None)

    run_virtual(scenario)


def test_services_that_do_not_fit_share_without_a_refused_resize() -> None:
    async def scenario(_: VirtualLoop) -> None:
        node = NodeWorld(2000, others=250)
        a, b = World(name="a", node=node), World(name="b", node=node)
        await node.run(3.0)
        a.change(1500)
        b.change(1500)
        await node.run(5.0)
        assert a.quota + b.quota == 1750
        assert node.joint_plans() > 0
        assert sum(refused(node).values()) == pytest.approx(1.25)
        assert set(a.outcomes()) == {"actuated"}
        assert "NodeShared" in (blocked(a), blocked(b))
        events = [event for world in (a, b) for event in world.events]
        assert {event[1] for event in events} == {"NodeShared"}
        assert "node n1 has 1.75 cores for 2 pods that together ask for" in events[0][2]
        # The load is gone, and so is the refusal after the time for which it is shown.
        a.change(500, urgent=False)
        b.change(500, urgent=False)
        await node.run(8.0)
        assert (a.quota, b.quota) == (500, 500)
        assert (blocked(a), blocked(b)) == (None, None)

    run_virtual(scenario)


def test_what_the_joint_plan_gives_is_the_most_that_a_pod_counts_with() -> None:
    async def scenario(_: VirtualLoop) -> None:
        node = NodeWorld(2000, others=250)
        a, b = World(name="a", node=node), World(name="b", node=node, slo={"latency": "300ms", "weight": 10})
        await node.run(3.0)
        a.change(1500)
        b.change(1500)
        await node.run(3.0)
        states = [world.controller.state for world in (a, b) if world.controller is not None]
        assert [state.most_milli for state in states] == [250, None]
        a.change(250, urgent=False)
        b.change(250, urgent=False)
        await node.run(8.0)
        states = [world.controller.state for world in (a, b) if world.controller is not None]
        assert [state.most_milli for state in states] == [None, None]

    run_virtual(scenario)


def test_the_service_with_more_weight_grows_after_the_other_has_shrunk() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        node = NodeWorld(2000, others=250)
        a = World(name="a", node=node)
        b = World(name="b", node=node, slo={"latency": "300ms", "weight": 10})
        a.change(1250)
        await node.run(3.0)
        assert (a.quota, b.quota) == (1250, 500)
        burst, before = loop.time(), len(a.times)
        loop.call_later(0.3, b.change, 1500)
        await node.run(1.5)
        assert (a.quota, b.quota) == (250, 1500)
        assert a.calls[before:] == [("apply", 250, 1500), ("patch", 250)]
        # The shrink does not wait for the long poll, and the grow follows it.
        assert a.times[-1] < burst + 0.5
        assert a.times[-1] < b.times[b.calls.index(("patch", 1500))] < burst + 0.7
        assert set(a.outcomes()) == {"actuated"}
        assert (blocked(a), blocked(b)) == ("NodeShared", None)

    run_virtual(scenario)


def test_a_grow_takes_the_free_cores_first_and_the_rest_later() -> None:
    async def scenario(_: VirtualLoop) -> None:
        node = NodeWorld(2000)
        a, b = World(start=1250, name="a", node=node), World(start=250, name="b", node=node)
        await node.run(3.0)
        a.need = 250  # seen at the next poll, and let go a look-back later
        b.change(1250)
        await node.run(4.0)
        assert b.patches()[-1] == 1250
        assert b.patches()[0] < 1250
        assert (a.quota, b.quota) == (250, 1250)
        assert set(a.outcomes()) == {"actuated"}

    run_virtual(scenario)


def test_a_pod_with_a_silent_server_keeps_its_cores() -> None:
    async def scenario(_: VirtualLoop) -> None:
        node = NodeWorld(2000)
        a = World(start=1000, name="a", node=node)
        b = World(start=250, name="b", node=node)
        c = World(start=250, name="c", node=node)
        await node.run(3.0)
        a.reachable = False
        b.change(1000)
        c.change(1000)
        await node.run(5.0)
        assert a.quota == 1000
        assert b.quota + c.quota == 1000
        assert set(b.outcomes()) == {"actuated"}

    run_virtual(scenario)


def test_a_node_too_small_for_the_smallest_sizes_is_reported() -> None:
    async def scenario(_: VirtualLoop) -> None:
        node = NodeWorld(1100)
        World(name="a", node=node)
        b = World(name="b", node=node)
        await node.run(3.0)
        b.body["spec"]["cpu"] = {"min": "1", "max": "2", "step": "500m"}
        await node.run(6.0)
        assert b.patches() == []
        assert blocked(b) == "NodeShared"
        assert refused(node)["b"] == 0.5
        node.hold(0)
        node.allocatable = 4000
        await node.run(12.0)
        assert (b.quota, blocked(b)) == (1000, None)

    run_virtual(scenario)


def test_without_the_right_to_read_nodes_each_service_is_planned_alone() -> None:
    async def scenario(_: VirtualLoop) -> None:
        node = NodeWorld(2000)
        node.forbidden = True
        a, b = World(name="a", node=node), World(name="b", node=node)
        await node.run(3.0)
        a.change(1500)
        await node.run(1.0)
        b.change(1500)
        await node.run(5.0)
        assert (a.quota, b.quota) == (1500, 500)
        assert blocked(b) == "Deferred"

    run_virtual(scenario)


def test_an_unknown_pod_is_counted_after_the_first_refusal() -> None:
    async def scenario(_: VirtualLoop) -> None:
        node = NodeWorld(3000)
        a, b = World(name="a", node=node), World(name="b", node=node)
        await node.run(1.0)
        node.hold(1000)
        a.change(1500)
        b.change(1500)
        await node.run(3.0)
        assert a.outcomes().get("deferred", 0) <= 2  # by one pod, by both at once, or, from Python 3.12 on, by none
        await node.run(40.0)
        assert a.quota + b.quota == 2000
        assert a.outcomes().get("deferred", 0) <= 2

    run_virtual(scenario)


# --- the rules -------------------------------------------------------------------------------------------------------


def recommended(milli: int, reason: str = "hold") -> Recommendation:
    return Recommendation(milli, 8, feasible=True, reason=reason)


def frontier(*points: tuple[int, float]) -> list[FrontierPoint]:
    return [FrontierPoint(cores_milli=milli, batch_cap=8, misses=misses) for milli, misses in points]


def test_sizes_without_a_projection_are_interpolated() -> None:
    state = snapshot(frontier=frontier((750, 4), (1000, 0), (1500, 0)), queue_length=2, arrival_rate_rps=8.0)
    points = points_of(recommended(1000), state, SIZES)
    assert [p.cores_milli for p in points] == [250, 375, 500, 625, 750, 875, 1000]
    assert [p.misses for p in points] == pytest.approx([8, 7, 6, 5, 4, 2, 0])


@pytest.mark.parametrize(
    ("alone", "points"),
    [
        pytest.param(recommended(50, "parked"), frontier((250, 0)), id="parked below the range"),
        pytest.param(recommended(500), [], id="no profile yet"),
    ],
)
def test_a_pod_without_a_choice_has_one_point(alone: Recommendation, points: list[FrontierPoint]) -> None:
    assert [p.cores_milli for p in points_of(alone, snapshot(frontier=points), SIZES)] == [alone.cores_milli]


tenants_drawn = st.lists(
    st.tuples(st.integers(0, 10), st.integers(0, 10), st.integers(0, 40)).map(
        lambda drawn: (250 + 125 * drawn[0], 250 + 125 * drawn[1], drawn[2])
    ),
    min_size=2,
    max_size=4,
)


@settings(max_examples=40)
@given(tenants_drawn, st.integers(0, 2000), st.randoms(use_true_random=False))
def test_a_node_is_never_overfull_and_every_pod_reaches_its_plan(
    drawn: list[tuple[int, int, int]], spare: int, order: object
) -> None:
    held = {str(i): has for i, (has, _, _) in enumerate(drawn)}
    room = sum(held.values()) + spare
    tenants = {}
    for i, (has, want, load) in enumerate(drawn):
        state = snapshot(frontier=frontier((want, 0)), arrival_rate_rps=float(load))
        tenants[str(i)] = Tenant(str(i), recommended(want), state, SIZES, has)
    rivals = list(tenants.values())
    joint = None if fit(rivals, room) else plan(rivals, room, lambda: 0.0)
    planned = dict(zip(tenants, joint.points, strict=True)) if joint else {}
    turns = [*tenants] * 3  # shrink, then grow, in any order
    order.shuffle(turns)  # type: ignore[attr-defined]
    for uid in (*turns, *tenants, *tenants):
        tenant = tenants[uid]
        now = Tenant(uid, tenant.recommendation, tenant.snapshot, SIZES, held[uid])
        held[uid] = allocate(now, planned.get(uid), room, held).recommendation.cores_milli
        assert sum(held.values()) <= room
    for uid, tenant in tenants.items():
        wanted = planned.get(uid) or tenant.recommendation
        assert held[uid] == wanted.cores_milli


def container(name: str, cpu: str, **more: object) -> dict[str, object]:
    return {"name": name, "resources": {"requests": {"cpu": cpu}}, **more}


def test_a_pod_holds_the_cpu_that_the_scheduler_counts() -> None:
    pod = {
        "metadata": {"uid": "1"},
        "spec": {
            "initContainers": [container("first", "1"), container("proxy", "100m", restartPolicy="Always")],
            "containers": [container("server", "500m"), {"name": "free"}],
            "overhead": {"cpu": "10m"},
        },
        # It shrinks from 700m; the node reserves that until the resize is complete.
        "status": {"containerStatuses": [{"name": "server", "allocatedResources": {"cpu": "700m"}}]},
    }
    assert pod_milli(pod) == 1010
    pod["spec"]["initContainers"].pop(0)  # type: ignore[index]
    assert pod_milli(pod) == 810
    pod["spec"]["resources"] = {"requests": {"cpu": "2"}}  # type: ignore[index]
    assert pod_milli(pod) == 2010
    over = {**pod, "metadata": {"uid": "2"}, "status": {"phase": "Succeeded"}}
    view = view_of({"status": {"allocatable": {"cpu": "3920m"}}}, [pod, over])
    assert (view.allocatable_milli, dict(view.held_milli)) == (3920, {"1": 2010})
