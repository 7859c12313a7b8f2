"""A pod's server loads another source: when it is asked for it, with which memory and size, and what follows."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from operator_world import World
from virtual_time import VirtualLoop, run_virtual

from sponge_core.control_api import MemoryState
from sponge_operator.autoscale.memory import observe_memory
from sponge_operator.autoscale.source_keeper import FIRST_RETRY_S, LAST_RETRY_S, ROOM_S
from sponge_operator.clients.kube import ApiError

NEW = "file:///models/new.pt2"
MIB = 1 << 20
IN_PLACE = {"base": "896Mi", "perBatchItem": "16Mi", "inPlace": True}


def world(**spec: Any) -> World:
    """A pod that is in service, with a limit of 1 GiB."""
    made = World(start=500, **spec)
    made.pod["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    made.touch()
    return made


def want(made: World, source: str | None = NEW) -> None:
    assert made.controller is not None
    made.controller.want_source(source)


def serving(made: World) -> str | None:
    """What the operator knows that the pod serves."""
    assert made.controller is not None
    return made.controller.state.source.serving if made.controller.state.source else None


def test_a_wanted_source_is_asked_for_once_and_its_end_is_seen() -> None:
    async def scenario(_: VirtualLoop) -> None:
        server = world()
        await server.run(2.0)
        assert (serving(server), server.sources.asked) == ("digits://", [])
        want(server)
        await server.run(20.0)
        assert serving(server) == NEW
        assert [source for source, _ in server.sources.asked] == [NEW]

    run_virtual(scenario)


def test_a_load_that_an_earlier_operator_began_is_followed() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        server = world()
        server.sources.loading, server.sources.until = NEW, loop.time() + 5.0
        want(server)
        await server.run(10.0)
        assert (serving(server), server.sources.asked) == (NEW, [])

    run_virtual(scenario)


def test_another_load_that_is_under_way_is_waited_for() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        server = world()
        server.sources.loading, server.sources.until = "file:///models/other.pt2", loop.time() + 5.0
        want(server)
        await server.run(20.0)
        assert serving(server) == NEW
        ((_, asked),) = server.sources.asked
        assert asked >= 5.0

    run_virtual(scenario)


def test_a_source_that_cannot_be_loaded_is_tried_again_ever_less_often() -> None:
    async def scenario(_: VirtualLoop) -> None:
        server = world()
        server.sources.takes_s = 0.0
        server.sources.refuse(NEW, "the bucket is away")
        want(server)
        await server.run(FIRST_RETRY_S * 8)
        times = [at for _, at in server.sources.asked]
        gaps = [later - sooner for sooner, later in pairwise(times)]
        assert [round(gap / FIRST_RETRY_S) for gap in gaps] == [1, 2, 4]
        await server.run(3 * LAST_RETRY_S)
        gap = server.sources.asked[-1][1] - server.sources.asked[-2][1]
        assert round(gap / LAST_RETRY_S) == 1
        server.sources.failures.clear()
        await server.run(LAST_RETRY_S + 5.0)
        assert serving(server) == NEW

    run_virtual(scenario)


def test_a_source_without_room_is_not_tried_again() -> None:
    async def scenario(_: VirtualLoop) -> None:
        server = world()
        server.sources.refuse(NEW, "both together need 1300 MiB", no_room=True)
        want(server)
        await server.run(3 * FIRST_RETRY_S)
        assert len(server.sources.asked) == 1
        assert server.controller is not None
        known = server.controller.state.source
        assert known is not None
        assert known.failed == server.sources.failures[NEW]

    run_virtual(scenario)


def test_a_container_that_ends_in_the_load_had_no_room_for_it() -> None:
    async def scenario(_: VirtualLoop) -> None:
        server = world()
        want(server)
        await server.run(3.0)
        assert server.sources.loading == NEW
        server.restart()
        await server.run(1.0)
        assert server.controller is not None
        told = server.controller.state.source
        assert told is not None
        assert told.failed is not None
        assert (told.failed.source, told.failed.no_room) == (NEW, True)
        server.sources.start_again("digits://")
        server.come_up()
        await server.run(FIRST_RETRY_S)
        assert serving(server) == "digits://"
        assert len(server.sources.asked) == 1

    run_virtual(scenario)


def test_a_server_of_an_earlier_version_is_asked_once() -> None:
    async def scenario(_: VirtualLoop) -> None:
        server = world()
        server.sources.closed = True
        want(server)
        await server.run(5.0)
        assert server.controller is not None
        assert "while it runs" in server.controller.state.fixed_source
        server.sources.closed = False
        server.restart()
        server.come_up()
        await server.run(15.0)
        assert serving(server) == NEW, "its container was replaced"

    run_virtual(scenario)


def test_a_server_that_is_not_ready_is_not_asked() -> None:
    async def scenario(_: VirtualLoop) -> None:
        server = world()
        server.ready = False
        want(server)
        await server.run(5.0)
        assert server.sources.asked == []
        server.ready = True
        await server.run(10.0)
        assert serving(server) == NEW

    run_virtual(scenario)


def memory_of(server: World) -> int:
    limit = observe_memory(server.pod, "server")
    assert limit is not None
    return limit.actual // MIB


def with_memory(**changes: Any) -> World:
    made = world(memory=IN_PLACE | changes)
    made.memory = MemoryState(limit=1024 * MIB, used=300 * MIB, base=300 * MIB, lane=20 * MIB, item=10 * MIB)
    return made


def test_memory_in_place_has_room_for_both_while_it_loads_and_shrinks_again() -> None:
    async def scenario(_: VirtualLoop) -> None:
        server = with_memory()
        await server.run(2.0)
        want(server)
        asked_with = []
        running = asyncio.create_task(server.run(40.0))
        while not running.done():
            if server.sources.loading is not None:
                asked_with.append(memory_of(server))
            await asyncio.sleep(0.1)
        await running
        assert serving(server) == NEW
        assert set(asked_with) == {2048}, "as much as the two pods of a rollout have"
        assert memory_of(server) == 1024

    run_virtual(scenario)


def no_more_memory(milli: int) -> ApiError | None:
    """The API server's answer to a resize; one without CPU is one of memory."""
    return None if milli else ApiError(403, {"message": "exceeded quota"})


@pytest.mark.parametrize("case", ["not in place", "recommends only", "refused"])
def test_without_more_memory_the_server_says_whether_it_has_room(case: str) -> None:
    async def scenario(_: VirtualLoop) -> None:
        server = with_memory(inPlace=case != "not in place")
        if case == "recommends only":
            server.body["spec"]["mode"] = "Recommend"
        if case == "refused":
            server.refusal = no_more_memory
        want(server)
        await server.run(ROOM_S + 10.0)
        assert serving(server) == NEW
        assert memory_of(server) == 1024
        ((_source, asked),) = server.sources.asked
        assert (asked >= ROOM_S) == (case == "refused")

    run_virtual(scenario)


def test_a_parked_pod_loads_at_the_size_that_it_started_with() -> None:
    async def scenario(_: VirtualLoop) -> None:
        server = world(cpu={"min": "250m", "max": "1500m", "step": "125m", "idle": "50m", "idleAfter": "1s"})
        server.need, server.idle_since = 250, 0.0
        await server.run(5.0)
        assert server.quota == 50
        want(server)
        sizes = set()
        running = asyncio.create_task(server.run(20.0))
        while not running.done():
            if server.sources.loading is not None:
                sizes.add(server.quota)
            await asyncio.sleep(0.1)
        await running
        assert (serving(server), max(sizes)) == (NEW, 1000)
        assert server.quota == 50, "and then it is parked again"

    run_virtual(scenario)
