"""A full queue: an urgent request finds room, whoever gives it up is told at once, each request is counted once."""

from __future__ import annotations

import asyncio

import pytest
from engine_world import World
from virtual_time import VirtualLoop, run_virtual

from sponge_server.engine.jobs import Job
from sponge_server.results import InferenceResult, ShedError


def full(loop: VirtualLoop, places: int = 10, **shares: float) -> World:
    """One lane, which runs one row at a time, and a queue of few places."""
    return World(loop, lanes=1, cores=1.0, batch_cap=1, max_rows=places, shares=shares)


async def flood(world: World, rows: int, slo_s: float = 60.0, slo_class: str = "default") -> list[Job]:
    """Requests of one row that wait, apart from the first, which runs."""
    jobs = [world.submit(slo_s=slo_s, slo_class=slo_class)]
    await asyncio.sleep(0.002)
    return jobs + [world.submit(slo_s=slo_s, slo_class=slo_class) for _ in range(rows)]


def test_an_urgent_request_takes_the_place_of_the_most_patient_one() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = full(loop)
        jobs = await flood(world, 9)
        patient = world.submit(slo_s=90.0)
        began = loop.time()
        urgent = world.submit(slo_s=0.5)
        refused = await world.outcome(patient)
        assert isinstance(refused, ShedError)
        assert "a more urgent request took" in str(refused)
        assert refused.retry_s > 0
        assert loop.time() == pytest.approx(began, abs=1e-3)  # told at once
        assert isinstance(await world.outcome(urgent), InferenceResult)
        for job in jobs:
            assert isinstance(await world.outcome(job), InferenceResult)
        assert world.counted() == {"in_time": 11, "shed": 1}
        assert b'sponge_queue_displaced_total{model="fake"} 1.0' in world.metrics.render()[0]

    run_virtual(scenario)


def test_a_request_as_patient_as_the_others_is_refused_and_nobody_else() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = full(loop)
        jobs = await flood(world, 10, slo_s=60.0)
        with pytest.raises(ShedError, match="10 rows wait, and at most 10 may"):
            world.submit(slo_s=60.0)
        with pytest.raises(ShedError, match="10 rows wait"):
            world.submit(slo_s=0.5, rows=11)
        assert not any(job.future.done() for job in jobs)
        assert world.counted() == {"shed": 2}

    run_virtual(scenario)


def test_a_request_of_several_rows_gives_up_all_its_places() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = full(loop)
        jobs = await flood(world, 6)
        large = world.submit(slo_s=90.0, rows=4)
        urgent = world.submit(slo_s=5.0)
        assert isinstance(await world.outcome(large), ShedError)
        another = world.submit(slo_s=60.0, rows=3)  # as many places are free again
        for job in (*jobs, urgent, another):
            assert isinstance(await world.outcome(job), InferenceResult)
        assert world.counted() == {"in_time": 9, "shed": 1}
        assert len(world.scheduler.room) == 0

    run_virtual(scenario)


def test_a_class_gets_its_share_back_from_a_flood_that_is_more_urgent() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = full(loop, gold=0.2)
        await flood(world, 10, slo_s=30.0)
        gold = [world.submit(slo_s=40.0, slo_class="gold") for _ in range(2)]
        with pytest.raises(ShedError):
            world.submit(slo_s=40.0, slo_class="gold")
        world.submit(slo_s=20.0)  # takes a place from its own class, though gold is more patient
        assert not any(job.future.done() for job in gold)
        assert world.counted() == {"shed": 4}

    run_virtual(scenario)


def test_places_are_free_again_when_clients_leave() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = full(loop)
        jobs = await flood(world, 10)
        for job in jobs[1:]:
            world.engine.cancel(job)
        assert len(world.scheduler.room) == 0
        for job in await flood(world, 9):
            assert isinstance(await world.outcome(job), InferenceResult)
        assert world.counted()["cancelled"] == 10

    run_virtual(scenario)
