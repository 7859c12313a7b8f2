"""Letting go of servers, startup sizes for containers that start again, and acting at once; in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from operator_world import KUBELET_S, World
from virtual_time import VirtualLoop, run_virtual

from sponge_operator.autoscale.letting_go import let_go
from sponge_operator.autoscale.target import Starting
from sponge_operator.clients.server import ServerError

PARKED = {"min": "250m", "max": "1500m", "step": "125m", "idle": "50m", "idleAfter": "5s"}


def pause(world: World, paused: bool) -> None:
    world.annotate(**({"serving.sponge.dev/paused": "true"} if paused else {}))
    assert world.controller is not None
    world.controller.wake()


@pytest.mark.parametrize("how", ["Recommend", "paused"])
def test_a_server_whose_size_may_not_change_is_let_go_once_and_taken_back_at_once(how: str) -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500)
        await world.run(2.0)
        assert world.calls == [("apply", 500, 1500)]
        if how == "paused":
            pause(world, True)
        else:
            world.body["spec"]["mode"] = how
        await world.run(10.0)
        assert world.calls[1:] == [("release",)]
        pause(world, False)
        world.body["spec"]["mode"] = "Auto"
        await world.run(0.1)
        assert world.calls[2:] == [("apply", 500, 1500)]

    run_virtual(scenario)


def test_a_release_that_is_lost_is_sent_again() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500)
        await world.run(2.0)
        world.body["spec"]["mode"] = "Recommend"
        world.releases = False
        await world.run(5.0)
        assert world.applied is not None
        world.releases = True
        await world.run(5.0)
        assert world.applied is None
        assert world.calls.count(("release",)) == 1

    run_virtual(scenario)


def test_whoever_stops_driving_lets_go_without_knowing_the_state() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500)
        await let_go(world.target(), world.context.control)
        assert (world.calls, world.message_version) == ([("release",)], 1)
        world.reachable = False
        with pytest.raises(ServerError):
            await let_go(world.target(), world.context.control)

    run_virtual(scenario)


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("size", [50, 250])
def test_a_container_that_is_killed_while_it_is_small_starts_at_its_startup_size(size: int, running: bool) -> None:
    """Also between the crashes of a loop: the kubelet starts it with what the spec says then."""

    async def scenario(loop: VirtualLoop) -> None:
        world = World(start=size, cpu=PARKED)
        world.idle_since = loop.time() if size == 50 else None
        world.need = 250
        await world.run(12.0)
        assert world.quota == size
        before, killed = len(world.calls), loop.time()
        world.restart(running=running)
        await world.run(3.0)
        assert world.calls[before:] == [("patch", 1000)]
        assert world.times[before] - killed < 0.05
        assert world.quota == 1000
        assert [event[1] for event in world.events] == ["StartupSize"]
        await world.run(30.0)
        assert world.calls[before:] == [("patch", 1000)]
        world.come_up()
        await world.run(20.0)
        assert world.quota == size

    run_virtual(scenario)


def test_a_server_that_answers_but_is_not_ready_yet_gets_its_startup_size_too() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=250)
        world.restart()
        world.reachable, world.ready = True, False
        await world.run(2.0)
        assert world.calls == [("patch", 1000)]

    run_virtual(scenario)


@pytest.mark.parametrize(
    ("room", "patches"), [(600, [1000, 250, 600]), (250, [1000, 250]), (1000, [1000]), (16_000, [1000])]
)
def test_a_node_without_room_for_the_startup_size_gives_what_it_has(room: int, patches: list[int]) -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=250, room=room)
        world.restart()
        await world.run(9.0)
        assert world.patches() == patches

    run_virtual(scenario)


def test_a_startup_size_above_the_range_is_cut() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=250, cpu={"min": "250m", "max": "750m", "step": "250m"})
        world.restart()
        await world.run(5.0)
        assert world.patches() == [750]

    run_virtual(scenario)


@pytest.mark.parametrize(("room", "patches"), [(16_000, [2000]), (1500, [2000, 500, 1500]), (500, [2000, 500])])
def test_a_boost_lasts_until_the_server_is_ready_as_far_as_the_node_has_room(room: int, patches: list[int]) -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500, room=room, cpu={"min": "250m", "max": "500m", "step": "250m", "startup": "2"})
        world.need = 500
        world.restart()
        await world.run(9.0)
        assert world.patches() == patches
        world.come_up()
        await world.run(5.0)
        assert world.quota == 500
        assert max(world.patches()[len(patches) :], default=500) == 500

    run_virtual(scenario)


@pytest.mark.parametrize("how", ["Recommend", "true", "grow"])
def test_a_container_that_may_not_grow_starts_small_and_that_is_known(how: str) -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=250, mode=how if how == "Recommend" else "Auto")
        if how != "Recommend":
            world.annotate(**{"serving.sponge.dev/paused": how})
        world.restart()
        await world.run(20.0)
        assert world.calls == []
        assert world.controller is not None
        assert world.controller.state.starting == Starting(has_milli=250, startup_milli=1000)

    run_virtual(scenario)


# --- at once ---------------------------------------------------------------------------------------------------------


def test_an_edit_is_in_force_at_once_also_while_the_server_rests() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(start=250)
        world.idle_since, world.need = loop.time(), 250
        edited: list[float] = []

        def edit() -> None:
            world.body["spec"]["cpu"]["min"] = "500m"
            edited.append(loop.time())
            assert world.controller is not None
            world.controller.wake()

        loop.call_later(27.3, edit)
        await world.run(30.0)
        assert world.patches() == [500]
        when = next(at for at, call in zip(world.times, world.calls, strict=True) if call[0] == "patch")
        assert when - edited[0] < 0.03

    run_virtual(scenario)


def test_a_size_set_by_another_hand_is_taken_back_at_once() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(start=250)
        world.idle_since, world.need = loop.time(), 250
        set_at: list[float] = []

        def by_hand() -> None:
            container = world.pod["spec"]["containers"][0]["resources"]
            for kind in ("limits", "requests"):
                container[kind]["cpu"] = "1"
                world.pod["status"]["containerStatuses"][0]["resources"][kind]["cpu"] = "1"
            world.quota = 1000
            set_at.append(loop.time())
            world.touch()

        loop.call_later(25.4, by_hand)
        await world.run(28.0)
        assert world.patches() == [250]
        assert world.times[-1] - set_at[0] < 1.0 + 0.05  # the look-back

    run_virtual(scenario)


def test_a_resting_server_costs_one_look_in_ten_seconds() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(start=250)
        world.idle_since = loop.time()
        await world.run(12.0)
        before = world.version
        await world.run(600.0)
        assert world.version - before <= 62
        assert world.patches() == []

    run_virtual(scenario)


def test_a_shrink_happens_when_its_look_back_ends() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(start=1000)
        await world.run(3.37)
        done = asyncio.ensure_future(world.run(4.0))
        await asyncio.sleep(0.5)
        smaller = loop.time()
        world.change(500)  # the server reports that a smaller size suffices
        await done
        assert world.patches() == [500]
        assert smaller < world.times[-1] < smaller + 1.0 + 0.1

    run_virtual(scenario)


def test_a_pod_is_parked_when_its_time_has_come() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(start=250, cpu={**PARKED, "idleAfter": "13.7s"})
        world.idle_since, world.need = loop.time(), 250
        await world.run(13.7 + 0.02 + KUBELET_S)
        assert world.patches() == [50]

    run_virtual(scenario)
