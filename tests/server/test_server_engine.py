"""The engine on fake lanes in virtual time: what runs when, on how many threads, and the outcome of every request."""

from __future__ import annotations

import asyncio
import logging
import struct
from dataclasses import replace
from functools import partial

import pytest
from engine_world import MODEL, World, bad_item, item
from virtual_time import VirtualLoop, run_virtual

from sponge_core.deadlines import Due
from sponge_server.observability.access_log import AccessLog
from sponge_server.refusals import refusal
from sponge_server.results import (
    CancelledRequestError,
    ExpiredError,
    FailedError,
    InferenceResult,
    RejectedError,
    ShedError,
)


def close(value: float) -> object:
    return pytest.approx(value, abs=2e-3)  # timers count in milliseconds


def test_one_request_is_answered_with_its_timing() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop)
        answer = await world.outcome(world.submit(slo_s=1.0, sent_ago_s=0.2))
        assert isinstance(answer, InferenceResult)
        assert answer.outputs[0].data == struct.pack("<f", 0.0)
        assert answer.timing.network_s == close(0.2)
        assert answer.timing.queue_s == close(0.0)
        assert answer.timing.infer_s == close(0.05)
        assert world.counted() == {"in_time": 1}
        assert world.ran() == [(0.0, 1, 1)]

    run_virtual(scenario)


def test_a_tight_deadline_gets_more_threads_than_a_loose_one() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop)
        await world.outcome(world.submit(slo_s=0.04))
        await world.outcome(world.submit(slo_s=1.0))
        assert [(rows, threads) for _, rows, threads in world.ran()] == [(1, 2), (1, 1)]

    run_virtual(scenario)


def test_under_overload_a_costly_request_is_refused_with_the_reason() -> None:
    """More comes than two cores can answer; those given up are told so, and most of the rest is in time."""

    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop)
        jobs = []
        for _ in range(200):
            jobs.append(world.submit(slo_s=0.4))
            await asyncio.sleep(0.01)
        outcomes = [await world.outcome(job) for job in jobs]
        refused = [found for found in outcomes if isinstance(found, ShedError)]
        assert refused
        assert all("at the expense of others" in str(found) for found in refused)
        # 100/s arrive, in full batches two cores answer 44/s.
        assert world.counted()["in_time"] >= 0.4 * len(jobs)

    run_virtual(scenario)


def test_batches_are_bound_late() -> None:
    """Requests that come while every thread is busy are batched when one becomes free, not before."""

    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0)
        first = world.submit()
        await asyncio.sleep(0.01)
        rest = [world.submit() for _ in range(3)]
        assert len(world.scheduler.queue) == 3
        await asyncio.gather(*(job.future for job in (first, *rest)))
        assert world.ran() == [(0.0, 1, 1), (close(0.05), 3, 1)]
        assert world.watcher.waits > 0

    run_virtual(scenario)


def test_the_earliest_deadline_goes_first() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0, batch_cap=1)
        done: list[str] = []
        jobs = {"first": world.submit(), "loose": world.submit(slo_s=2.0), "tight": world.submit(slo_s=0.5)}

        def note(name: str, _: object) -> None:
            done.append(name)

        for name, job in jobs.items():
            job.future.add_done_callback(partial(note, name))
        await asyncio.gather(*(job.future for job in jobs.values()))
        assert done == ["tight", "first", "loose"]

    run_virtual(scenario)


def test_hopeless_on_arrival_is_shed_at_once() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop)
        error = await world.outcome(world.submit(slo_s=0.02))
        assert isinstance(error, ShedError)
        assert loop.time() == close(0.0)
        assert world.counted() == {"shed": 1}
        assert world.ran() == []

    run_virtual(scenario)


def test_a_waiting_request_expires_when_it_becomes_hopeless_not_after_its_deadline() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0, batch_cap=1)
        blocker = world.submit()
        world.pool.lanes[0].slowness = 10.0
        await asyncio.sleep(0.001)
        error = await world.outcome(world.submit(slo_s=0.2))
        assert isinstance(error, ExpiredError)
        assert loop.time() == close(0.151)
        await blocker.future
        assert world.counted() == {"expired": 1, "in_time": 1}

    run_virtual(scenario)


def test_a_client_that_leaves_frees_its_place_before_compute() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0)
        first, second = world.submit(), None
        await asyncio.sleep(0.01)
        second = world.submit()
        world.engine.cancel(second)
        assert isinstance(await world.outcome(second), CancelledRequestError)
        assert len(world.scheduler.queue) == 0
        await first.future
        await asyncio.sleep(1.0)
        assert len(world.ran()) == 1
        assert world.counted() == {"cancelled": 1, "in_time": 1}

    run_virtual(scenario)


def test_a_client_that_leaves_while_its_batch_runs_affects_no_other() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0)
        gone, stays = world.submit(), world.submit()
        await asyncio.sleep(0.01)
        world.engine.cancel(gone)
        assert isinstance(await world.outcome(stays), InferenceResult)
        assert world.ran() == [(0.0, 2, 1)]
        assert world.engine.jobs == 0
        assert world.scheduler.threads_running == 0

    run_virtual(scenario)


def test_rows_of_one_request_come_back_together_in_order() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, batch_cap=2)
        answer = await world.outcome(world.submit(rows=5))
        assert isinstance(answer, InferenceResult)
        assert answer.outputs[0].shape == (5, 1)
        assert struct.unpack("<5f", answer.outputs[0].data) == (0.0, 1.0, 2.0, 3.0, 4.0)
        assert sum(rows for _, rows, _ in world.ran()) == 5
        assert world.counted() == {"in_time": 1}

    run_virtual(scenario)


def test_one_bad_row_fails_its_request_once_and_drops_its_other_rows() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0, batch_cap=1)
        job = world.submit(items=[item(), bad_item(), item()])
        error = await world.outcome(job)
        assert isinstance(error, RejectedError)
        assert "row 1" in str(error)
        await asyncio.sleep(1.0)
        assert len(world.ran()) == 2
        assert world.engine.jobs == 0

    run_virtual(scenario)


def test_a_request_refused_because_of_the_queue_ahead_says_so() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0)
        jobs = [world.submit(slo_s=4.0) for _ in range(40)]

        def refused(slo_s: float, rank: int = 1) -> ShedError | None:
            return refusal(world.scheduler, Due(loop.time(), slo_s, "default", "absent", rank), loop.time())

        assert (refused(4.1), refused(1.2)) == (None, None)
        jobs += [world.submit(slo_s=1.0) for _ in range(30)]
        needed_s = 30 * MODEL.latency(8, 1) / 8
        behind = refused(1.2)
        assert behind is not None
        assert f"30 rows due earlier need about {needed_s * 1000:.0f} ms" in str(behind)
        assert "only 1200 ms of its 1200 ms were left" in str(behind)
        assert behind.retry_s == close(needed_s)
        assert "too few even at the largest size" in str(refused(0.01))
        assert refused(1.2, rank=9) is None, "its body may bring another deadline"
        world.engine.fail_all()
        await asyncio.gather(*(world.outcome(job) for job in jobs))

    run_virtual(scenario)


def test_fewer_cores_bind_new_batches_at_once_and_fit_when_running_ones_end() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop)
        jobs = [world.submit(slo_s=2.0)]
        await asyncio.sleep(0.001)
        jobs.append(world.submit(slo_s=2.0))
        await asyncio.sleep(0.001)
        assert world.scheduler.threads_running == 2
        world.engine.set_cores(1.0)
        jobs += [world.submit(slo_s=2.0) for _ in range(2)]
        await world.engine.fits(1.0)
        assert world.scheduler.threads_running <= 1
        assert loop.time() == close(0.05)
        await asyncio.gather(*(job.future for job in jobs))
        busiest = max(
            sum(threads for start, rows, threads in world.ran() if start <= at < start + 0.05)
            for at in (0.06, 0.09, 0.12)
        )
        assert busiest <= 1

    run_virtual(scenario)


def test_more_cores_count_at_once() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, cores=1.0, max_cores=2.0, batch_cap=1)
        jobs = [world.submit() for _ in range(2)]
        await asyncio.sleep(0.01)
        assert world.scheduler.threads_running == 1
        world.engine.set_cores(2.0)
        await asyncio.gather(*(job.future for job in jobs))
        assert [start for start, _, _ in world.ran()] == [0.0, close(0.01)]

    run_virtual(scenario)


def test_the_access_log_has_the_outcome_of_each_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "sponge_server.observability.access_log")

    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, observers=[AccessLog()])
        await world.outcome(world.submit(slo_s=1.0))
        await world.outcome(world.submit(slo_s=0.01))

    run_virtual(scenario)
    told = {record.msg: record.fields for record in caplog.records}  # type: ignore[attr-defined]
    assert set(told) == {"batch.done", "request.in_time", "request.shed"}
    done, refused = told["request.in_time"], told["request.shed"]
    assert (done["model"], done["batch"], done["threads"]) == ("fake", 1, 1)
    assert done["slack_ms"] == pytest.approx(950, abs=5)
    assert (refused["batch"], refused["slo_ms"]) == (None, pytest.approx(10))


def test_a_full_queue_refuses_and_says_when_to_try_again() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0, batch_cap=1, max_rows=40)
        world.submit(slo_s=60.0)
        await asyncio.sleep(0.01)
        for _ in range(4):
            world.submit(slo_s=60.0, rows=10)
        with pytest.raises(ShedError, match="40 rows wait") as refused:
            world.submit(slo_s=60.0)
        assert refused.value.retry_s == close(40 * 0.05)
        assert world.counted() == {"shed": 1}

    run_virtual(scenario)


TWICE = replace(MODEL, gamma=0.08)
"""l(1, 1) = 90 ms, l(1, 2) = 50 ms."""


def test_deadlines_order_all_models_and_no_batch_mixes_two() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0, profiles=(MODEL, TWICE))
        jobs = [world.submit(slo_s=3.0)]
        await asyncio.sleep(0.01)
        jobs += [world.submit(slo_s=3.0), world.submit(slo_s=0.4, model=1), world.submit(slo_s=3.0)]
        await asyncio.gather(*(job.future for job in jobs))
        assert world.ran_models() == [(0, 1), (1, 1), (0, 2)]
        assert [start for start, _, _ in world.ran()] == [0.0, close(0.05), close(0.14)]
        assert {arrival[3] for arrival in world.watcher.arrivals} == {0, 1}

    run_virtual(scenario)


def test_each_model_has_its_own_largest_batch() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0, profiles=(MODEL, replace(MODEL, max_batch=2)))
        jobs = [world.submit(slo_s=5.0)]
        await asyncio.sleep(0.01)
        jobs += [world.submit(slo_s=5.0, rows=5, model=model) for model in (0, 1)]
        await asyncio.gather(*(job.future for job in jobs))
        assert world.ran_models() == [(0, 1), (0, 5), (1, 2), (1, 2), (1, 1)]

    run_virtual(scenario)


def test_one_model_slower_than_its_profile_does_not_slow_the_other_ones_prediction() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0, profiles=(MODEL, MODEL))
        world.pool.lanes[0].profiles = (MODEL, TWICE)
        for _ in range(20):
            for model in (0, 1):
                await world.submit(model=model).future
        fine, slow = world.scheduler.ratios
        assert fine == pytest.approx(1.0, abs=0.05)
        assert slow == pytest.approx(1.8, rel=0.1)

    run_virtual(scenario)


def test_a_lane_crashed_by_one_model_costs_the_other_at_most_one_retry() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, lanes=1, cores=1.0, profiles=(MODEL, TWICE))
        world.pool.lanes[0].faults = ["crash", "", "crash"]
        bad = world.submit(slo_s=2.0, model=1)
        await asyncio.sleep(0.001)
        good = world.submit(slo_s=1.0)
        assert isinstance(await world.outcome(good), InferenceResult)
        assert isinstance(await world.outcome(bad), FailedError)
        assert world.ran_models() == [(1, 1), (0, 1), (1, 1)]
        exposed = world.metrics.render()[0].decode()
        assert 'sponge_lane_crashes_total{model="fake1"} 2.0' in exposed
        assert 'sponge_requests_total{model="fake",outcome="in_time",slo_class="default"} 1.0' in exposed
        assert 'sponge_requests_total{model="fake1",outcome="error",slo_class="default"} 1.0' in exposed
        assert world.counted() == {"error": 1, "in_time": 1}

    run_virtual(scenario)
