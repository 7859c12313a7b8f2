"""The control loop on a server in a local cgroup: the same order, ceiling, budget and parking as for a pod."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from operator_world import World
from virtual_time import VirtualLoop, run_virtual

from sponge_core.control_api import ApplyRequest, SizeRange
from sponge_operator.autoscale.cgroup_target import CgroupTarget
from sponge_operator.autoscale.control_loop import ControlLoop, Standalone
from sponge_operator.autoscale.recommender import SizingSpec
from sponge_operator.autoscale.resize_budget import ResizeBudget
from sponge_operator.autoscale.resizer import bring_to
from sponge_operator.clients.server import ServerError
from sponge_system.cgroup import CgroupError

SIZES = SizeRange(min_milli=250, max_milli=1500, step_milli=125)


class FakeCgroup:
    """A quota that the world's server reads; `around` is the limit of the cgroup around it, which version 1 refuses."""

    def __init__(self, world: World, around: int = 16_000, refuses: bool = False) -> None:
        self._world = world
        self.around = around
        self.refuses = refuses

    def quota_milli(self) -> int | None:
        return self._world.quota

    def set_quota_milli(self, milli: int | None) -> None:
        assert milli is not None
        self._world.record("quota", milli)
        if milli > self.around and self.refuses:
            raise CgroupError("a limit above that of the cgroup around it")
        self._world.quota = min(milli, self.around)


class Local:
    """A world whose server runs in a cgroup, and the loop that sizes it."""

    def __init__(self, budget: ResizeBudget | None = None, idle_milli: int | None = None, **cgroup: Any) -> None:
        self.world = World(start=500)
        self.cgroup = FakeCgroup(self.world, **cgroup)
        self.target = CgroupTarget("http://127.0.0.1:1", "token", 500, self.cgroup)
        self.host = Standalone(SizingSpec(SIZES, idle_milli, idle_after_s=30.0))
        loop = asyncio.get_running_loop()
        self.loop = ControlLoop(self.target, self.world.context.control, self.host, loop.time, budget=budget)

    async def run(self, seconds: float) -> None:
        task = asyncio.create_task(self.loop.run())
        await asyncio.wait({task}, timeout=seconds)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


def test_a_grow_sets_the_quota_first_and_a_shrink_the_budget() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        local = Local()
        await local.run(3.0)
        assert local.world.calls == [("apply", 500, 1500)]
        loop.call_later(0.3, local.world.change, 1250)
        await local.run(1.0)
        assert local.world.calls[1:] == [("quota", 1250), ("apply", 1250, 1500)]
        local.world.change(250, urgent=False)
        await local.run(4.0)
        assert local.world.calls[3:] == [("apply", 250, 1500), ("quota", 250)]
        assert local.host.resizes == 2

    run_virtual(scenario)


@pytest.mark.parametrize("refuses", [False, True])
def test_the_limit_of_a_cgroup_around_it_is_a_ceiling(refuses: bool) -> None:
    async def scenario(_: VirtualLoop) -> None:
        local = Local(around=1100, refuses=refuses)
        await local.run(2.0)
        local.world.change(1500)
        await local.run(5.0)
        quotas = [call[1] for call in local.world.calls if call[0] == "quota"]
        # Version 2 grants what there is, version 1 nothing: then the present size is the ceiling.
        assert quotas == ([1500] if refuses else [1500, 1000])
        assert local.world.quota == (500 if refuses else 1000)
        local.cgroup.around = 16_000
        await local.run(31.0)
        assert local.world.quota == 1500

    run_virtual(scenario)


def test_shrinks_are_limited_by_the_budget() -> None:
    async def scenario(_: VirtualLoop) -> None:
        local = Local(budget=ResizeBudget(per_s=0.0))
        local.world.change(250, urgent=False)
        await local.run(5.0)
        assert local.world.quota == 500

    run_virtual(scenario)


def test_an_idle_server_is_parked() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        local = Local(idle_milli=50)
        local.world.idle_since = loop.time()
        await local.run(32.0)
        assert local.world.calls[-2:] == [("apply", 50, 1500), ("quota", 50)]
        local.world.change(500)
        await local.run(2.0)
        assert local.world.quota == 500

    run_virtual(scenario)


def test_one_resize_without_a_loop() -> None:
    async def scenario(_: VirtualLoop) -> None:
        local = Local()
        control = local.world.context.control
        await bring_to(local.target, control, ApplyRequest(version=1, cores_milli=1000, batch_cap=4), 5.0)
        await bring_to(local.target, control, ApplyRequest(version=2, cores_milli=250, batch_cap=8), 5.0)
        await bring_to(local.target, control, ApplyRequest(version=3, cores_milli=250, batch_cap=4), 5.0)
        names = [call[:2] for call in local.world.calls]
        assert names == [("quota", 1000), ("apply", 1000), ("apply", 250), ("quota", 250), ("apply", 250)]
        local.world.stalled = True
        with pytest.raises(ServerError, match="did not answer"):
            await bring_to(local.target, control, ApplyRequest(version=4, cores_milli=100, batch_cap=4), 5.0)
        assert local.world.quota == 250

    run_virtual(scenario)


def test_without_a_cgroup_the_thread_budget_alone_is_sized() -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500)
        target = CgroupTarget("http://127.0.0.1:1", "token", 500, None)
        await bring_to(target, world.context.control, ApplyRequest(version=1, cores_milli=1000, batch_cap=4), 5.0)
        assert world.calls == [("apply", 1000, None)]
        assert target.observe(None) == await target.settled(1000, 0.0)

    run_virtual(scenario)
