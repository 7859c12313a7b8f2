"""Lanes of several pools as the lanes of one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_world import MODEL, item
from virtual_time import FakePool, VirtualLoop, run_virtual

from sponge_server.workers.interface import LaneCrashed
from sponge_server.workers.versioned_pool import VersionedPool


async def started(lanes: int = 2, models: int = 1) -> tuple[VersionedPool, FakePool, list[int]]:
    """A pool, its first part, and the number of lanes at every change."""
    first = FakePool(0, *[MODEL] * models)
    pool, changes = VersionedPool(first), []
    pool.add_listener(lambda: changes.append(len(pool.lanes)))
    await pool.start(lanes)
    return pool, first, changes


def test_a_batch_runs_in_the_pool_of_its_version() -> None:
    async def scenario(_: VirtualLoop) -> None:
        pool, first, _changes = await started(models=2)
        second = FakePool(1, MODEL)
        assert await pool.add(second) == 2
        assert [len(part.lanes) for part in (first, second)] == [2, 2]
        assert len(pool.models) == 3
        lane = pool.lanes[1]
        for model in (0, 1, 2):
            await lane.run([item()], 1, None, model)
        assert [run[3] for run in first.lanes[1].ran] == [0, 1]
        assert [run[3] for run in second.lanes[1].ran] == [0]
        assert not first.lanes[0].ran
        assert (pool.together(1), pool.together(2)) == ([0, 1], [2])

    run_virtual(scenario)


def test_a_lane_runs_one_batch_at_a_time_whatever_its_version() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        pool, _, _changes = await started()
        place = await pool.add(FakePool(2, MODEL))
        running = loop.create_task(pool.lanes[0].run([item()], 1, None, place))
        await asyncio.sleep(0)
        assert [lane.busy for lane in pool.lanes] == [True, False]
        await running
        assert [lane.busy for lane in pool.lanes] == [False, False]

    run_virtual(scenario)


def test_a_lane_is_healthy_while_all_its_processes_are() -> None:
    async def scenario(_: VirtualLoop) -> None:
        pool, first, changes = await started()
        second = FakePool(2, MODEL)
        await pool.add(second)
        second.lanes[1].healthy = False
        changes.clear()
        second.changed()
        assert changes == [2]
        assert [lane.healthy for lane in pool.lanes] == [True, False]
        first.lanes[0].healthy = False
        assert [lane.healthy for lane in pool.lanes] == [False, False]

    run_virtual(scenario)


def test_a_former_version_leaves_with_its_pool() -> None:
    async def scenario(_: VirtualLoop) -> None:
        pool, first, changes = await started()
        second = FakePool(2, MODEL)
        place = await pool.add(second)
        held = pool.lanes[0]
        assert (pool.position(0), pool.position(place)) == (0, 1)
        await pool.remove(0)
        assert pool.position(place) == 0
        changes.clear()
        first.changed()
        assert changes == [], "nobody listens to a pool that has left"
        await held.run([item()], 1, None, place)
        with pytest.raises(LaneCrashed, match="no longer has the version"):
            await pool.lanes[0].run([item()], 1, None, 0)
        await pool.remove(place)
        assert [lane.healthy for lane in pool.lanes] == [False, False], "there is nothing to run a batch on"
        await pool.scale(3)
        third = FakePool(1, MODEL)
        await pool.add(third)
        assert [lane.healthy for lane in pool.lanes] == [True] * 3

    run_virtual(scenario)


def test_there_are_as_many_lanes_as_every_pool_has() -> None:
    async def scenario(_: VirtualLoop) -> None:
        pool, first, _changes = await started()
        second = FakePool(2, MODEL)
        await pool.add(second)
        await second.scale(1)
        assert len(pool.lanes) == 1
        await pool.scale(4)
        assert [len(part.lanes) for part in (pool, first, second)] == [4, 4, 4]

    run_virtual(scenario)


def test_the_pools_share_what_a_lane_may_keep() -> None:
    class Keeping(FakePool):
        kept: Any = None

        def keep(self, allowance: Any) -> None:
            self.kept = allowance(2)

    async def scenario(_: VirtualLoop) -> None:
        first, second = Keeping(0, MODEL), Keeping(2, MODEL)
        pool = VersionedPool(first)
        await pool.start(2)
        pool.keep(lambda lanes: 100 * lanes)
        assert first.kept == 200
        place = await pool.add(second)
        assert (first.kept, second.kept) == (100, 100)
        pool.keep(lambda _: None)
        assert (first.kept, second.kept) == (None, None)
        pool.keep(lambda _: 50)
        await pool.remove(place)
        assert first.kept == 50

    run_virtual(scenario)
