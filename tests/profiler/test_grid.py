"""The grid on a simulated machine: its cells, the batches that run, and the resulting profile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sponge_core.cpu_sharing import speed_of, thread_budget
from sponge_core.errors import ProfileError
from sponge_core.latency import LatencyModel
from sponge_profiler.grid import (
    WARM_UP_BATCHES,
    GridCell,
    MeasuredCell,
    contradicting,
    grid_cells,
    measure_cell,
    profile_of,
    waiting_share,
)
from sponge_profiles.timing import BatchTime

TRUE = LatencyModel(gamma=0.020, delta=0.004, epsilon=0.006, eta=0.002, interference=0.1)


class Machine:
    """Runs batches in no time, under a CPU limit that it is told, and counts them."""

    def __init__(self) -> None:
        self.cores = 1.0
        self.running = 0
        self.ran: list[tuple[float, int, int]] = []

    async def set_cores(self, cores: float) -> None:
        self.cores = cores

    async def run(self, batch: int, threads: int) -> BatchTime:
        self.ran.append((self.cores, batch, threads))
        self.running += 1
        await asyncio.sleep(0)
        work = TRUE.latency(batch, threads) * TRUE.slowdown(self.running - 1)
        await asyncio.sleep(0)
        self.running -= 1
        return BatchTime(work / speed_of(self.cores, threads), work * threads)


async def measured(cores: list[float], batches: list[int]) -> list[MeasuredCell]:
    machine = Machine()
    found = []
    for cell in grid_cells(cores, batches):
        await machine.set_cores(cell.cores)
        found.append(await measure_cell(machine.run, cell, 5))
    return found


def batch(cell: GridCell, *seconds: float) -> MeasuredCell:
    return MeasuredCell(cell, tuple(BatchTime(s, s) for s in seconds))


FACTS: dict[str, Any] = {"name": "t", "model": "T", "source": "test", "machine": "test"}


def test_a_grid_is_by_size_with_lanes_where_each_has_a_core() -> None:
    assert grid_cells([2, 0.5, 1, 1.5, 2], [4, 1]) == [
        *(GridCell(0.5, 1), GridCell(0.5, 4), GridCell(1, 1), GridCell(1, 4), GridCell(1.5, 1), GridCell(1.5, 4)),
        *(GridCell(2, 1), GridCell(2, 4), GridCell(2, 1, lanes=2), GridCell(2, 4, lanes=2)),
    ]
    assert [
        cell.threads for cell in (GridCell(0.5, 1), GridCell(1, 1), GridCell(1.5, 1), GridCell(4, 1), GridCell(4, 1, 4))
    ] == [*(1, 1, 2, 4, 1)]


@pytest.mark.parametrize(
    ("cores", "batches", "message"),
    [
        ([], [1], "the grid is empty"),
        ([1.0], [], "the grid is empty"),
        ([0.5, 1.5], [1], "no whole number of cores among 0.5, 1.5: .*; add 1"),
        ([0.0, 1.0], [1], "0 cores are too few to measure under; name 0.05 or more"),
        ([1.0], [0], "a batch of 0 cannot be run"),
    ],
)
def test_an_impossible_grid_is_refused(cores: list[float], batches: list[int], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        grid_cells(cores, batches)


async def test_a_cell_warms_up_and_counts_its_rounds() -> None:
    machine = Machine()
    rounds: list[int] = []
    found = await measure_cell(machine.run, GridCell(1, 4), 7, lambda: rounds.append(1))
    assert len(machine.ran) == WARM_UP_BATCHES + 7
    assert set(machine.ran) == {(1.0, 4, 1)}
    assert (len(found.times), len(found.alone), len(rounds)) == (7, 0, 7)
    assert len(found.more(found).times) == 14


async def test_lanes_side_by_side_take_turns_with_one_alone() -> None:
    machine = Machine()
    await machine.set_cores(3)
    found = await measure_cell(machine.run, GridCell(3, 2, lanes=3), 4)
    assert (len(found.times), len(found.alone)) == (12, 4)
    assert {t.wall_s for t in found.alone} == {TRUE.latency(2, 1)}
    assert min(t.wall_s for t in found.times) == pytest.approx(TRUE.latency(2, 1) * 1.2)


async def test_measured_cells_become_the_profile_of_the_machine() -> None:
    profile = profile_of(await measured([0.5, 1, 1.5, 2], [1, 2, 4, 8]), percentile=95, **FACTS)
    model = profile.latency_model()
    for size in (1, 3, 8):
        for threads in (1, 2):
            assert model.latency(size, threads) == pytest.approx(TRUE.latency(size, threads), rel=0.02)
    assert profile.interference == pytest.approx(TRUE.interference)
    assert {(p.batch, p.threads) for p in profile.points} == {(b, k) for b in (1, 2, 4, 8) for k in (1, 2)}
    assert {(p.lanes, round(p.slowdown, 3)) for p in profile.lanes} == {(2, 1.1)}
    assert [(p.cores, p.batch) for p in profile.quotas] == [(c, b) for c in (0.5, 1.5) for b in (1, 2, 4, 8)]
    for point in profile.quotas:
        threads = thread_budget(point.cores)
        assert point.p95_ms == pytest.approx(TRUE.latency(point.batch, threads) * threads / point.cores * 1e3, rel=1e-3)
        assert point.p95_ms is not None
        assert point.p95_ms < profile.allowed_ms(point.cores, point.batch)


async def test_without_a_whole_core_there_is_no_profile() -> None:
    half = await measure_cell(Machine().run, GridCell(0.5, 1), 4)
    with pytest.raises(ProfileError, match="add --cores 1"):
        profile_of([half], percentile=95, **FACTS)


def test_cells_that_contradict_each_other_are_named() -> None:
    fine = [
        batch(GridCell(1, 1), 1.0),
        batch(GridCell(1, 2), 2.0),
        batch(GridCell(2, 1), 0.6),
        batch(GridCell(0.5, 2), 0.1),
    ]
    assert contradicting(fine, 95) == []
    assert contradicting([*fine, batch(GridCell(2, 2), 0.5)], 95) == [GridCell(2, 1), GridCell(2, 2)]


def test_waiting_for_a_cpu_shows_on_one_core() -> None:
    half = MeasuredCell(GridCell(1, 1), (BatchTime(wall_s=1.0, cpu_s=0.5),) * 2)
    throttled = MeasuredCell(GridCell(0.5, 1), (BatchTime(4.0, 1.0),))
    assert waiting_share([half, throttled, MeasuredCell(GridCell(2, 1), (BatchTime(1.0, 2.0),))]) == pytest.approx(0.5)
    assert waiting_share([throttled]) == 0.0
