"""The controller of one pod in virtual time: bursts, full nodes, silent servers and stuck kubelets."""

from __future__ import annotations

import pytest
from operator_world import KUBELET_S, World
from virtual_time import VirtualLoop, run_virtual

from sponge_operator.autoscale.resizer import restore
from sponge_operator.clients.kube import ApiError


def test_a_burst_is_answered_at_once_and_in_order() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(start=500)
        await world.run(3.0)
        assert world.calls == [("apply", 500, 1500)]
        burst = loop.time()
        loop.call_later(0.3, world.change, 1250)
        await world.run(1.0)
        # The quota first, then the thread budget once the quota is in force.
        assert world.calls[1:] == [("patch", 1250), ("apply", 1250, 1500)]
        assert world.times[1] == pytest.approx(burst + 0.3, abs=2e-3)
        assert world.times[2] - world.times[1] < 0.008 + KUBELET_S + 0.02
        assert world.outcomes() == {"actuated": 1}
        entry = world.decisions.entries[-1]
        assert (entry.from_milli, entry.to_milli, entry.reason, entry.outcome) == (500, 1250, "grow", "actuated")
        assert entry.urgent
        assert entry.took_s == pytest.approx(world.times[2] - world.times[1], abs=5e-3)

    run_virtual(scenario)


def test_a_shrink_waits_for_the_look_back_and_begins_with_the_server() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(start=1000)
        await world.run(2.0)
        world.change(250, urgent=False)
        before = len(world.calls)
        shrunk = loop.time()
        await world.run(4.0)
        assert world.calls[before:] == [("apply", 250, 1500), ("patch", 250)]
        assert world.times[before] >= shrunk + 1.0 - 1.0  # the look-back counts from the newest need, one poll before
        assert world.quota == 250

    run_virtual(scenario)


def test_an_idle_service_costs_one_look_a_second() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=250)
        await world.run(60.0)
        assert world.version <= 62
        assert world.patches() == []

    run_virtual(scenario)


def test_the_room_that_a_full_node_reports_is_a_ceiling_for_a_while() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(start=500, room=1100)
        await world.run(2.0)
        world.change(1500)
        await world.run(5.0)
        # It requested all, took it back, requested the reported room, and told the server its new largest size.
        assert world.patches() == [1500, 500, 1000]
        assert world.calls[-1] == ("apply", 1000, 1000)
        assert world.outcomes() == {"deferred": 1, "actuated": 1}
        assert world.controller is not None
        blocked = world.controller.state.blocked
        assert blocked is not None
        assert blocked.reason == "Deferred"
        assert [event[1] for event in world.events] == ["ResizeDeferred"]
        # The node has room again; the operator retries after a while.
        world.room = 16_000
        await world.run(31.0)
        assert world.quota == 1500
        assert world.controller.state.blocked is None

    run_virtual(scenario)


def test_a_node_that_is_too_small_lowers_the_ceiling() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500)
        world.allocatable = 1300
        world.change(1500)
        await world.run(0.9)
        assert world.patches() == [1500, 1250]
        assert world.quota == 1250
        assert world.controller is not None
        assert world.controller.state.blocked is not None
        assert world.controller.state.blocked.reason == "NodeCapacity"

    run_virtual(scenario)


def test_a_node_too_small_for_the_smallest_size_is_not_asked_again_and_again() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500, room=600)
        await world.run(1.5)
        world.body["spec"]["cpu"] = {"min": "1", "max": "2", "step": "500m"}
        await world.run(9.0)
        assert world.patches() == [1000, 500, 600]
        await world.run(11.0)
        assert world.patches() == [1000, 500, 600, 1000, 600]
        assert world.controller is not None
        assert world.controller.state.recommendation is not None
        assert world.controller.state.recommendation.reason == "ceiling"

    run_virtual(scenario)


def test_a_refusal_that_no_other_size_avoids_is_not_repeated_at_every_look() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500)
        message = 'User "operator" cannot patch resource "pods/resize" in API group "" in the namespace "team-a"'
        world.refusal = ApiError(403, {"message": message, "reason": "Forbidden"})
        world.change(1500)
        await world.run(25.0)
        assert len(world.patches()) == 2
        assert world.outcomes() == {"rejected": 2}
        assert [event[1] for event in world.events] == ["ResizeForbidden"]

    run_virtual(scenario)


def test_no_decision_uses_an_old_state() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=1000)
        await world.run(2.0)
        world.reachable = False
        world.change(250)
        await world.run(30.0)
        assert world.patches() == []
        assert world.controller is not None
        assert not world.controller.state.reachable
        assert world.controller.state.trouble == "connection refused"
        world.reachable = True
        await world.run(5.0)
        assert world.quota == 250

    run_virtual(scenario)


def test_a_server_that_does_not_acknowledge_keeps_its_quota() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=1000)
        await world.run(2.0)
        world.stalled = True
        world.change(250)
        await world.run(10.0)
        assert world.patches() == []
        assert world.controller is not None
        assert world.controller.state.reachable, "it answers, so the service is still ready"
        world.stalled = False
        await world.run(5.0)
        assert world.patches() == [250]

    run_virtual(scenario)


@pytest.mark.parametrize("mode", ["Recommend", "paused"])
def test_a_recommendation_changes_nothing(mode: str) -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500, mode="Recommend" if mode == "Recommend" else "Auto")
        if mode == "paused":
            world.annotate(**{"serving.sponge.dev/paused": "true"})
        world.change(1500)
        await world.run(10.0)
        assert world.calls == []
        assert [(e.to_milli, e.outcome) for e in world.decisions.entries] == [
            (1500, "recommended" if mode == "Recommend" else "paused")
        ]
        assert world.controller is not None
        assert world.controller.state.last is not None
        assert not world.controller.state.last.applied

    run_virtual(scenario)


def test_a_stuck_kubelet_is_woken_by_another_size() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500)
        await world.run(1.5)
        world.alive = False
        world.change(1500)
        await world.run(2.5)
        assert world.patches() == [1500]
        assert world.outcomes() == {"timeout": 1}
        # It restarts, and reports the generation as observed without having seen the size.
        world.pod["status"]["observedGeneration"] = world.pod["metadata"]["generation"]
        world.touch()
        world.alive = True
        await world.run(5.0)
        assert world.patches() == [1500, 1499, 1500]
        assert world.quota == 1500
        assert world.controller is not None
        assert world.controller.state.blocked is None

    run_virtual(scenario)


def test_a_late_kubelet_is_reminded_once_its_usual_time_is_known() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(start=500)

        def late(need: int) -> None:
            world.late = True
            world.change(need)

        loop.call_later(1.0, late, 750)
        loop.call_later(3.0, world.change, 1000)
        loop.call_later(5.0, late, 1250)
        for number in range(12):  # to and fro in the usual time
            loop.call_later(6.0 + 2 * number, world.change, 1000 if number % 2 else 1500)
        loop.call_later(30.0, late, 1250)
        await world.run(32.0)
        patches = world.patches()
        assert patches[:3] == [750, 1000, 1250]
        assert patches[-3:] == [1250, 1249, 1250]
        assert world.times[-1] - world.times[-4] < 0.2
        assert "timeout" not in world.outcomes()

    run_virtual(scenario)


def test_a_late_kubelet_gets_the_size_that_is_wanted_by_then() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(start=500)

        def late(need: int) -> None:
            world.late = True
            world.change(need)

        loop.call_later(1.0, world.change, 750)
        loop.call_later(3.0, late, 1000)
        loop.call_later(3.05, world.change, 1500)
        await world.run(4.0)
        assert world.patches() == [750, 1000, 1500]
        assert world.times[-1] - 3.0 < 0.2
        assert world.calls[-1] == ("apply", 1500, 1500)

    run_virtual(scenario)


def test_a_restarted_server_gets_its_size_again() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500)
        await world.run(1.5)
        world.applied = None
        await world.run(1.5)
        assert world.calls == [("apply", 500, 1500)] * 2

    run_virtual(scenario)


def test_a_new_range_reaches_the_running_server() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500)
        await world.run(1.5)
        world.body["spec"]["cpu"] = {"min": "500m", "max": "4", "step": "500m"}
        await world.run(1.5)
        assert world.calls[-1] == ("apply", 500, 4000)
        world.change(3500)
        await world.run(1.0)
        assert world.quota == 3500

    run_virtual(scenario)


def test_an_operator_that_takes_over_does_not_disturb_a_resize_in_progress() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500)
        world.pod["metadata"]["generation"] += 1
        world.pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "750m"
        world.touch()
        world.change(750)
        await world.run(1.0)
        assert world.patches() == []

    run_virtual(scenario)


def test_restoring_requests_the_startup_size() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500)
        await restore(world.target(), 500)
        assert world.patches() == []
        await restore(world.target(), 1000)
        assert world.patches() == [1000]
        world.refusal = ApiError(404, {"message": "gone"})
        await restore(world.target(), 750)

    run_virtual(scenario)


def test_an_idle_pod_is_parked_and_woken_by_the_first_request() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cpu = {"min": "250m", "max": "1500m", "step": "125m", "idle": "50m", "idleAfter": "30s"}
        world = World(start=250, cpu=cpu)
        world.idle_since = loop.time()
        await world.run(29.0)
        assert world.patches() == []
        await world.run(3.0)
        assert world.patches() == [50]
        assert world.calls[-2:] == [("apply", 50, 1500), ("patch", 50)]
        assert world.decisions.entries[-1].reason == "parked"
        loop.call_later(5.2, world.change, 500)
        await world.run(6.0)
        assert world.patches() == [50, 500]
        assert world.quota == 500

    run_virtual(scenario)


def test_saved_core_seconds_are_counted_from_the_largest_size() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500)
        await world.run(20.0)
        sample = next(iter(world.context.metrics.saved.collect())).samples[0]
        assert sample.value == pytest.approx(19.0, abs=1.5)  # (1.5 - 0.5) cores

    run_virtual(scenario)
