"""The engine on lanes that crash, hang or fail: retries, and the outcome of every request."""

from __future__ import annotations

import asyncio

import pytest
from engine_world import World, bad_item, item
from virtual_time import POISON, VirtualLoop, run_virtual

from sponge_server.results import (
    ExpiredError,
    FailedError,
    InferenceResult,
    RejectedError,
)


@pytest.mark.parametrize("fault", ["crash", "hang"])
def test_a_lost_lane_is_survived_by_one_retry(fault: str) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop)
        world.pool.lanes[0].faults = [fault]
        answer = await world.outcome(world.submit(slo_s=30.0))
        assert isinstance(answer, InferenceResult)
        assert len(world.ran()) == 2
        assert world.counted() == {"in_time": 1}
        assert world.scheduler.ratios[0] == pytest.approx(1.0)

    run_virtual(scenario)


def test_a_lane_lost_twice_fails_its_requests_only() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0)
        world.pool.lanes[0].faults = ["crash", "crash"]
        error = await world.outcome(world.submit())
        assert isinstance(error, FailedError)
        assert isinstance(await world.outcome(world.submit()), InferenceResult)
        assert world.counted() == {"error": 1, "in_time": 1}

    run_virtual(scenario)


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_poison_request_takes_its_batch_down_at_most_once(lanes: int) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=lanes, cores=1.0)
        jobs = [world.submit(items=[item(value)], slo_s=30.0) for value in (1.0, 2.0, POISON, 3.0)]
        await asyncio.sleep(0.01)
        later = [world.submit(items=[item(4.0)], slo_s=30.0) for _ in range(2)]
        outcomes = [await world.outcome(job) for job in (*jobs, *later)]
        assert [isinstance(outcome, InferenceResult) for outcome in outcomes] == [True, True, False, True, True, True]
        assert "lost twice" in str(outcomes[2])
        assert world.counted() == {"in_time": 5, "error": 1}
        assert [rows for _, rows, _ in world.ran()].count(1) >= 4
        assert world.scheduler.threads_running == 0
        assert world.metrics.registry.get_sample_value("sponge_lane_crashes_total", {"model": "fake"}) == 2

    run_virtual(scenario)


def test_a_lost_lane_without_time_for_a_retry_is_an_error() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0)
        world.pool.lanes[0].faults = ["crash"]
        error = await world.outcome(world.submit(slo_s=0.07))
        assert isinstance(error, FailedError)
        assert world.counted() == {"error": 1}
        assert len(world.ran()) == 1

    run_virtual(scenario)


def test_an_unexpected_exception_of_a_lane_leaves_no_request_unanswered(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0)
        world.pool.lanes[0].faults = ["bug"]
        assert isinstance(await world.outcome(world.submit()), FailedError)
        assert isinstance(await world.outcome(world.submit()), InferenceResult)
        assert world.scheduler.threads_running == 0

    run_virtual(scenario)
    assert "lane.bug" in caplog.text


def test_one_bad_item_fails_alone() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0)
        bad, good = world.submit(items=[bad_item()]), world.submit()
        assert isinstance(await world.outcome(bad), RejectedError)
        assert isinstance(await world.outcome(good), InferenceResult)
        assert world.ran() == [(0.0, 2, 1)]

    run_virtual(scenario)


def test_without_a_healthy_lane_requests_wait_then_expire() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0)
        lane = world.pool.lanes[0]
        lane.healthy = False
        lost = world.submit(slo_s=0.3)
        patient = world.submit(slo_s=2.0)
        assert isinstance(await world.outcome(lost), ExpiredError)
        lane.healthy = True
        world.pool.changed()
        assert isinstance(await world.outcome(patient), InferenceResult)

    run_virtual(scenario)


def test_failing_all_answers_every_request() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0)
        jobs = [world.submit() for _ in range(3)]
        await asyncio.sleep(0.001)
        world.engine.fail_all()
        for job in jobs:
            assert isinstance(await world.outcome(job), FailedError)
        assert world.engine.jobs == 0
        await asyncio.sleep(1.0)

    run_virtual(scenario)


def test_every_request_has_exactly_one_outcome_under_overload_with_crashes() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop)
        world.pool.lanes[0].faults = ["", "crash", "", "bug"]
        jobs = []
        for number in range(400):
            jobs.append(world.submit(slo_s=0.1 + 0.1 * (number % 7)))
            if number % 11 == 5:
                world.engine.cancel(jobs[number - 3])
            await asyncio.sleep(0.004)
        await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
        await asyncio.sleep(1.0)
        assert sum(world.stats.outcomes.values()) == 400
        assert world.stats.outcomes["in_time"] > 60
        assert world.stats.outcomes["late"] == 0
        assert world.stats.outcomes["expired"] > 0
        assert world.engine.jobs == 0
        assert len(world.scheduler.queue) == 0
        assert world.scheduler.threads_running == 0

    run_virtual(scenario)
