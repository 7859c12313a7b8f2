"""Timing on a simulated machine: what runs, which clock counts, when it stops, and the result."""

from __future__ import annotations

import asyncio

import pytest

from sponge_core.errors import ProfileError
from sponge_core.latency import LatencyModel
from sponge_profiles.timing import (
    BatchTime,
    grid_points,
    machine_name,
    measure_grid,
    measure_interference,
    quick_profile,
)

TRUE = LatencyModel(gamma=0.020, delta=0.004, epsilon=0.006, eta=0.002)


class Machine:
    """Runs batches in virtual time: throttled below one core, slower beside other lanes."""

    def __init__(self, quota: float = 8.0, interference: float = 0.0) -> None:
        self.now = 0.0
        self.quota = quota
        self.interference = interference
        self.running = 0
        self.ran: list[tuple[int, int]] = []

    def clock(self) -> float:
        return self.now

    async def run(self, batch: int, threads: int) -> BatchTime:
        self.ran.append((batch, threads))
        self.running += 1
        await asyncio.sleep(0)
        work = TRUE.latency(batch, threads) * (1 + self.interference * (self.running - 1))
        await asyncio.sleep(0)
        self.running -= 1
        wall = work * max(1.0, threads / self.quota)
        self.now += wall
        return BatchTime(wall, work * threads)


async def test_the_first_round_warms_up_and_does_not_count() -> None:
    machine = Machine()
    steps: list[int] = []
    samples = await measure_grid(machine.run, [(1, 1), (2, 1)], rounds=3, progress=lambda: steps.append(1))
    assert {key: len(times) for key, times in samples.items()} == {(1, 1): 3, (2, 1): 3}
    assert len(machine.ran) == len(steps) == 8


async def test_a_budget_that_ends_early_leaves_what_was_reached() -> None:
    machine = Machine(quota=0.05)
    grid = [(1, 1), (2, 1), (4, 1), (8, 1)]
    samples = await measure_grid(machine.run, grid, rounds=5, budget_s=1.0, clock=machine.clock)
    assert list(samples) == [(1, 1), (2, 1)]
    assert machine.ran == [(1, 1), (2, 1)]


@pytest.mark.parametrize("quota", [0.25, 1.0, 4.0])
async def test_quick_profile_finds_full_speed_under_any_limit(quota: float) -> None:
    machine = Machine(quota)
    profile = await quick_profile(
        machine.run, [1, 2, 4, 8], [1, 2, 4], quota, budget_s=30.0, model="m", clock=machine.clock
    )
    model = profile.latency_model()
    for batch in (1, 3, 8):
        assert model.latency(batch, 1) == pytest.approx(TRUE.latency(batch, 1), rel=0.01)
    assert {p.threads for p in profile.points} == ({1, 2, 4} if quota >= 4 else {1})
    if quota >= 4:
        assert model.latency(4, 4) == pytest.approx(TRUE.latency(4, 4), rel=0.01)
    else:  # Amdahl with the default share
        assert model.latency(4, 4) == pytest.approx(TRUE.latency(4, 1) * (0.2 + 0.8 / 4), rel=0.01)
    assert (profile.max_batch, profile.interference, profile.origin) == (8, 0.0, "measured")


async def test_quick_profile_measures_lanes_side_by_side_where_each_has_a_core() -> None:
    machine = Machine(4.0, interference=0.1)
    profile = await quick_profile(machine.run, [1, 2], [1], 4.0, budget_s=30.0, model="m", lanes=3, clock=machine.clock)
    assert profile.interference == pytest.approx(0.1, rel=0.05)
    none = await quick_profile(machine.run, [1, 2], [1], 1.5, budget_s=30.0, model="m", lanes=3, clock=machine.clock)
    assert none.interference == 0.0


@pytest.mark.parametrize(
    ("granted", "threads"),
    [(8.0, {1, 2, 4, 6}), (4.0, {1, 2, 4}), (1.0, {1})],
)
async def test_quick_profile_measures_more_threads_where_the_limit_grows(granted: float, threads: set[int]) -> None:
    machine = Machine(1.0)

    async def grow(cores: int) -> bool:
        if cores <= granted:
            machine.quota = cores
        return cores <= granted

    profile = await quick_profile(
        machine.run, [1, 4], range(1, 7), 1.0, budget_s=30.0, model="m", grow=grow, clock=machine.clock
    )
    assert {p.threads for p in profile.points} == threads
    most = max(threads)
    assert profile.latency_model().latency(4, most) == pytest.approx(TRUE.latency(4, most), rel=0.02)
    assert f"up to {most} cores" in profile.source


async def test_quick_profile_survives_a_noisy_moment() -> None:
    times = iter([0.010, 0.008])

    async def noisy(batch: int, threads: int) -> BatchTime:
        return BatchTime(t := next(times), t)

    profile = await quick_profile(
        noisy, [1, 2], [1], 1.0, budget_s=1e9, model="m", clock=iter(range(0, 10**10, 10**9)).__next__
    )
    assert [p.p95_ms for p in profile.points] == [10.0]


async def test_no_batches_is_an_error() -> None:
    with pytest.raises(ProfileError, match="give at least one"):
        await quick_profile(Machine().run, [], [1], 1.0, budget_s=1.0, model="m")


async def test_interference_needs_the_same_batch_alone() -> None:
    machine = Machine(interference=0.2)
    alone = await measure_grid(machine.run, [(2, 1)], rounds=2)
    assert await measure_interference(machine.run, alone, [2], 2, 3) == pytest.approx(0.2)
    assert await measure_interference(machine.run, alone, [1], 2, 3) == 0.0


async def test_a_slow_moment_is_not_taken_for_interference() -> None:
    """The machine became half as fast after the grid was measured."""
    machine = Machine(interference=0.2)
    alone = await measure_grid(machine.run, [(2, 1)], rounds=2)

    async def slower(batch: int, threads: int) -> BatchTime:
        time = await machine.run(batch, threads)
        return BatchTime(2 * time.wall_s, 2 * time.cpu_s)

    assert await measure_interference(slower, alone, [2], 2, 3) == pytest.approx(0.2)


def test_grid_points_are_percentiles_of_the_clock_that_counts() -> None:
    times = [BatchTime(wall_s=i / 1000, cpu_s=1.0) for i in range(1, 102)]
    (point,) = grid_points({(1, 2): times}, lambda t: t.wall_s)
    assert (point.p50_ms, point.p95_ms, point.p99_ms, point.n) == (51.0, 96.0, 100.0, 101)


def test_the_machine_has_a_name() -> None:
    assert machine_name().endswith("CPUs")
