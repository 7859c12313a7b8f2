"""Another version takes over in the engine: which version a request runs on, and what is learnt from its batch."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from engine_world import MODEL, World, handles
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import FakePool, VirtualLoop, run_virtual

from sponge_core.deadlines import Due
from sponge_core.edf_queue import Request
from sponge_server.engine.engine import FORMER_HANG_S
from sponge_server.engine.failures import parts_of
from sponge_server.engine.jobs import Job
from sponge_server.era import Era
from sponge_server.model_handle import ModelHandle

NEW = replace(MODEL, gamma=MODEL.gamma / 2)


def another(world: World, max_batch: int = 16) -> ModelHandle:
    """A second version of the world's model; its lanes have it at place 1."""
    former = world.models[0]
    world.pool.profiles = (MODEL, NEW)
    for lane in world.pool.lanes:
        lane.profiles = world.pool.profiles
    return replace(former, version="2", place=1, info=replace(former.info, max_batch=max_batch))


def test_a_request_runs_on_the_version_that_it_came_for() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0)
        running = world.submit(slo_s=9.0)
        await asyncio.sleep(0.01)
        waiting = world.submit(slo_s=9.0, rows=2)
        new = another(world)
        world.engine.take_over(new, NEW)
        world.models[0] = new
        later = world.submit(slo_s=9.0)
        for job in (running, waiting, later):
            assert not isinstance(await world.outcome(job), Exception)
        assert world.ran_models() == [(0, 1), (0, 2), (1, 1)]
        assert world.counted() == {"in_time": 3}

    run_virtual(scenario)


def test_only_batches_of_the_version_that_serves_correct_its_profile() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0)
        former = world.submit(slo_s=9.0)
        await asyncio.sleep(0.01)
        new = another(world)
        world.engine.take_over(new, NEW)
        await world.outcome(former)
        assert world.scheduler.ratios == [1.0], "the former version takes longer, which says nothing about this one"
        world.models[0] = new
        world.pool.lanes[0].slowness = 1.5
        await world.outcome(world.submit(slo_s=9.0))
        assert world.scheduler.ratios[0] > 1.0

    run_virtual(scenario)


def test_a_long_batch_of_the_former_version_does_not_count_as_hung() -> None:
    """Its time is predicted by the profile of the new one, which may be much faster."""

    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0)
        world.submit(slo_s=9.0)
        await asyncio.sleep(0.01)
        waiting = world.submit(slo_s=9.0)
        world.engine.take_over(another(world), NEW)
        world.pool.lanes[0].faults.append("hang")
        await world.outcome(waiting)
        assert loop.time() > FORMER_HANG_S

    run_virtual(scenario)


def test_the_new_version_is_planned_with_its_own_profile() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0)
        assert world.scheduler.least_s() == pytest.approx(MODEL.latency(1, 1))
        world.engine.take_over(another(world), NEW)
        assert world.scheduler.least_s() == pytest.approx(NEW.latency(1, 1))
        assert world.scheduler.models == [NEW]

    run_virtual(scenario)


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.booleans()), min_size=1, max_size=12), st.integers(1, 4))
def test_a_part_is_of_one_version_and_within_its_largest_batch(rows: list[tuple[int, bool]], most: int) -> None:
    (model,) = handles(FakePool(1, MODEL).models)
    versions = [replace(model, place=place, info=replace(model.info, max_batch=most + place)) for place in range(3)]
    due = Due(0.0, 1.0, "default", "absent", 9)
    entries = []
    for number, (version, retried) in enumerate(rows):
        future: asyncio.Future[object] = None  # type: ignore[assignment]
        job = Job(versions[version], due, 0.0, future, range(number, number + 1), [None], 1)  # type: ignore[arg-type]
        if retried:
            job.retried.add(number)
        entries.append((Request(number, 0.0, 1.0), (job, None)))
    parts = parts_of(entries)  # type: ignore[arg-type]
    assert sorted(request.id for part in parts for request, _ in part) == list(range(len(rows)))
    for part in parts:
        jobs = [job for _, (job, _) in part]
        assert len({job.model.place for job in jobs}) == 1
        assert len(part) <= jobs[0].model.info.max_batch
        assert len(part) == 1 or not any(job.retried for job in jobs)
    whole = [part for part in parts if not part[0][1][0].retried]
    assert [part[0][1][0].model.place for part in whole] == sorted(part[0][1][0].model.place for part in whole)


def test_an_era_is_over_when_the_last_of_its_calls_has_ended() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        era, ended = Era(), []

        async def call(seconds: float) -> None:
            with era:
                await asyncio.sleep(seconds)
            ended.append(seconds)

        calls = [loop.create_task(call(seconds)) for seconds in (1.0, 3.0, 2.0)]
        await asyncio.sleep(0)
        await era.over()
        assert ended == [1.0, 2.0, 3.0]
        await asyncio.gather(*calls)
        await era.over()

    run_virtual(scenario)
