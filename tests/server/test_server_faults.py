"""Errors that pass and must leave nothing behind: of scaling, of reading the quota, of a decision; in virtual time."""

from __future__ import annotations

import asyncio
import errno
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_world import World
from test_server_control import Site, site
from virtual_time import VirtualLoop, run_virtual

from sponge_core.control_api import ApplyRequest, SizeRange
from sponge_server.engine.cpu_quota import CpuQuota
from sponge_server.lifecycle import READY_WITHOUT_S, Lifecycle, Phase
from sponge_server.observability.observers import RequestObserver
from sponge_server.protocol import http_server
from sponge_server.protocol.problems import ProblemError
from sponge_server.results import FailedError, InferenceResult, RequestError


def sizes(version: int, most_milli: int) -> ApplyRequest:
    allowed = SizeRange(min_milli=500, max_milli=most_milli, step_milli=500)
    return ApplyRequest(version=version, cores_milli=1000, batch_cap=4, sizes=allowed)


def test_scaling_that_fails_is_tried_until_the_lanes_are_as_many_as_wanted(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        scale, failures = place.pool.scale, [OSError(errno.EMFILE, "files"), RuntimeError("?"), ValueError()]

        async def failing(lanes: int) -> None:
            if failures:
                raise failures.pop()
            await scale(lanes)

        place.pool.scale = failing  # type: ignore[method-assign]
        apply = place.reconfigurer.apply
        await apply(sizes(1, 4000))
        await asyncio.sleep(10)
        assert (len(place.pool.lanes), failures) == (4, [])
        await apply(sizes(2, 3000))
        await asyncio.sleep(10)
        assert len(place.pool.lanes) == 3

    site(scenario, tmp_path, 2.0)


def test_the_newest_range_counts_while_an_older_one_cannot_be_reached(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        scale = place.pool.scale

        async def failing(lanes: int) -> None:
            if lanes > 3:
                raise OSError(errno.EAGAIN, "no more processes")
            await scale(lanes)

        place.pool.scale = failing  # type: ignore[method-assign]
        apply = place.reconfigurer.apply
        await apply(sizes(1, 6000))
        await asyncio.sleep(60)
        assert len(place.pool.lanes) == 2
        await apply(sizes(2, 3000))
        await asyncio.sleep(10)
        assert len(place.pool.lanes) == 3

    site(scenario, tmp_path, 2.0)


def test_readiness_and_liveness_follow_the_lanes(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        lifecycle, first = place.lifecycle, place.pool.lanes[0]
        for lane in place.pool.lanes:
            lane.healthy = False
        await asyncio.sleep(READY_WITHOUT_S - 0.5)
        assert (lifecycle.ready, lifecycle.accepting) == (True, True)
        await asyncio.sleep(1.0)
        assert (lifecycle.ready, lifecycle.accepting, lifecycle.alive) == (False, False, True)
        assert lifecycle.reason == "lanes-lost"
        assert "every lane was lost" in lifecycle.not_ready().detail
        assert not place.publisher.snapshot().ready
        await asyncio.sleep(60)
        assert not lifecycle.alive
        first.healthy = True
        await asyncio.sleep(0.2)
        assert (lifecycle.ready, lifecycle.accepting, lifecycle.alive) == (True, True, True)
        assert [ready for _, ready in place.told_ready] == [False, True]
        assert READY_WITHOUT_S <= place.told_ready[0][0] <= READY_WITHOUT_S + 0.3

    site(scenario, tmp_path, 2.0)


@pytest.mark.parametrize("phase", ["loading", "warming", "leaving", "draining"])
def test_lost_lanes_make_no_server_ready_that_was_not(phase: Phase) -> None:
    lifecycle = Lifecycle(["m"], phase)
    for now, healthy in ((0.0, False), (10.0, False), (11.0, True)):
        lifecycle.see_lanes(now, healthy)
        assert not lifecycle.ready
        assert lifecycle.reason == phase
        assert isinstance(lifecycle.not_ready(), ProblemError)


def test_an_error_in_the_control_loop_is_not_its_last_turn(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        project, failures = place.projector.project, [RuntimeError("unforeseen"), ZeroDivisionError()]

        def failing(now: float) -> None:
            if failures:
                raise failures.pop()
            project(now)

        place.projector.project = failing  # type: ignore[method-assign]
        place.projector._readers = 1
        await asyncio.sleep(5)
        assert not failures
        assert place.projector.frontier

    site(scenario, tmp_path, 2.0)


def test_a_quota_that_cannot_be_read_stays_in_force_and_is_read_later(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").touch()
    limit = tmp_path / "cpu.max"
    limit.write_text("50000 100000")
    quota = CpuQuota(2.0, tmp_path)
    assert quota.in_force == 0.5
    limit.write_text("150000 100000")
    without_files(quota.poll)
    assert quota.in_force == 0.5
    quota.poll()
    assert quota.in_force == 1.5
    limit.write_text("max 100000")
    without_files(quota.poll)
    assert quota.in_force == 1.5
    quota.poll()
    assert quota.in_force == 2.0
    quota.close()


def test_a_quota_that_makes_no_sense_is_reported_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cgroup.procs").touch()
    limit = tmp_path / "cpu.max"
    limit.write_text("50000 100000")
    quota = CpuQuota(2.0, tmp_path)
    for nonsense in ("", "50000", "much 100000", "50000 0"):
        limit.write_text(nonsense)
        quota.poll()
        quota.poll()
        assert quota.in_force == 0.5
    assert [record.msg for record in caplog.records] == ["quota.unreadable"]
    limit.unlink()
    quota.poll()
    assert quota.in_force == 2.0
    quota.close()


def without_files(call: Callable[[], object]) -> None:
    """Calls it while this process can open no file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        call()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_error_in_a_decision_delays_requests_and_loses_none() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop)
        turn, failures = world.scheduler.turn, [RuntimeError("unforeseen")] * 3

        def failing(now: float, idle: int) -> object:
            if failures:
                raise failures.pop()
            return turn(now, idle)

        world.scheduler.turn = failing  # type: ignore[assignment, method-assign]
        jobs = [world.submit() for _ in range(3)]
        assert not any(isinstance(outcome, Exception) for outcome in [await world.outcome(job) for job in jobs])

    run_virtual(scenario)


def test_what_can_never_be_decided_is_answered_at_its_deadline() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop)

        def failing(*_: object) -> object:
            raise RuntimeError("unforeseen")

        world.scheduler.turn = failing  # type: ignore[assignment, method-assign]
        job = world.submit(slo_s=1.0)
        assert isinstance(await world.outcome(job), FailedError)
        assert 1.0 <= loop.time() <= 1.2
        assert world.counted() == {"error": 1}

    run_virtual(scenario)


@pytest.mark.parametrize(
    "event",
    [
        "requests_pending",
        "turn_taken",
        "batch_started",
        "batch_finished",
        "batch_measured",
        "lane_lost",
        "request_ended",
    ],
)
def test_an_error_in_the_middle_of_a_turn_or_batch_leaves_nothing_behind(event: str) -> None:
    failures = [RuntimeError("unforeseen")]

    def fail(self: RequestObserver, *_: object) -> None:
        if failures:
            raise failures.pop()

    faulty = type("Faulty", (RequestObserver,), {event: fail})

    async def scenario(loop: VirtualLoop) -> None:
        world = World(loop, observers=[faulty()], batch_cap=1)
        if event == "lane_lost":
            world.pool.lanes[0].faults.append("crash")
        jobs = [world.submit(slo_s=2.0) for _ in range(3)]
        outcomes = await asyncio.gather(*(world.outcome(job) for job in jobs))
        assert not failures
        assert all(isinstance(outcome, InferenceResult | RequestError) for outcome in outcomes)
        assert loop.time() <= 2.1
        await asyncio.sleep(1.0)
        engine, scheduler = world.engine, world.scheduler
        assert (engine.jobs, engine.running, scheduler.threads_running, len(scheduler.queue)) == (0, {}, 0, 0)
        again = [world.outcome(world.submit(slo_s=2.0)) for _ in range(3)]
        assert all(isinstance(outcome, InferenceResult) for outcome in await asyncio.gather(*again))

    run_virtual(scenario)


@pytest.mark.parametrize(
    ("soft", "hard", "connections"),
    [
        (1024, 1 << 20, 4096),
        (1 << 20, 1 << 20, 4096),
        (1024, resource.RLIM_INFINITY, 4096),
        (1024, 8192, 2346),
        (1024, 1024, 170),
        (64, 64, 10),
    ],
)
def test_every_port_gets_its_connections_and_files_are_left(
    soft: int, hard: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = [soft, hard]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limit))
    monkeypatch.setattr(resource, "setrlimit", lambda _, given: limit.__setitem__(slice(None), given))
    assert http_server.make_room(4096, 16) == connections
    assert limit[1] == hard
    if connections == 4096:
        assert limit[0] >= 3 * 4096 + 16 * 8


def test_few_connections_need_no_higher_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert http_server.make_room(1, 1) == 1
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
