"""The cells of a profile's grid: which there are, how one is measured, and how the measured ones become a profile.

Whoever calls sets the CPU limit that a cell asks for, and hands in a function that runs one batch under it: on lanes in
a cgroup of this machine, or in a pod that is resized in place. Knows nothing of either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sponge_core.cpu_sharing import thread_budget
from sponge_core.errors import ProfileError
from sponge_profiles.profile import GridPoint, LanePoint, MemoryUse, Profile, QuotaPoint, contradictions
from sponge_profiles.timing import BatchTime, RunBatch, grid_points, percentiles
from sponge_profiles.validation import Form

__all__ = [
    "LEAST_CORES",
    "Cell",
    "MeasuredCell",
    "contradicting",
    "grid_cells",
    "measure_cell",
    "profile_of",
    "waiting_share",
]

LEAST_CORES = 0.05
"""Below that a batch takes longer than anybody waits for an answer, and longer to measure."""

WARM_UP_BATCHES = 2
"""Of each lane, before those that count: another thread count has its team to start, another size its memory to get."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One point to measure: a batch size under a CPU limit of `cores`.

    One lane runs on as many threads as the limit has room for. With several, each runs the same batch on one thread,
    and the limit has a core for each.
    """

    cores: float
    batch: int
    lanes: int = 1

    @property
    def threads(self) -> int:
        """Of each lane."""
        return 1 if self.lanes > 1 else thread_budget(self.cores)

    @property
    def whole(self) -> bool:
        """A core for every thread: nothing is throttled."""
        return float(self.cores).is_integer()

    def __str__(self) -> str:
        cores = f"{self.cores:g} core{'s' if self.cores > 1 else ''}, batch {self.batch}"
        return cores if self.lanes == 1 else f"{cores}, {self.lanes} lanes"


@dataclass(frozen=True, slots=True)
class MeasuredCell:
    """What the batches of one cell took. `alone` is for several lanes: the same batch on one of them, in between."""

    cell: Cell
    times: tuple[BatchTime, ...]
    alone: tuple[BatchTime, ...] = ()

    def more(self, other: MeasuredCell) -> MeasuredCell:
        """Both visits to the same cell together."""
        return MeasuredCell(self.cell, self.times + other.times, self.alone + other.alone)


def grid_cells(cores: Sequence[float], batches: Sequence[int]) -> list[Cell]:
    """The cells in the order to measure them in: by CPU limit, since changing that is what takes time.

    Lanes side by side are measured at every whole number of cores from 2.

    Raises:
        ProfileError: no profile can come of this grid.
    """
    if not cores or not batches:
        raise ProfileError("the grid is empty; name at least one number of cores and one batch size")
    if min(batches) < 1:
        raise ProfileError(f"a batch of {min(batches)} cannot be run; name sizes from 1")
    if min(cores) < LEAST_CORES:
        raise ProfileError(f"{min(cores):g} cores are too few to measure under; name {LEAST_CORES:g} or more")
    if not any(float(c).is_integer() for c in cores):
        asked = ", ".join(f"{limit:g}" for limit in cores)
        raise ProfileError(
            f"no whole number of cores among {asked}: l(b,k) is fitted to batches that are never throttled; add 1"
        )
    sizes = sorted(set(batches))
    cells = []
    for limit in sorted(set(cores)):
        cells += [Cell(limit, batch) for batch in sizes]
        if limit >= 2 and float(limit).is_integer():
            cells += [Cell(limit, batch, lanes=int(limit)) for batch in sizes]
    return cells


async def measure_cell(
    run_batch: RunBatch, cell: Cell, rounds: int, progress: Callable[[], None] = lambda: None
) -> MeasuredCell:
    """Runs the cell's batch `rounds` >= 1 times, after some that warm up and do not count.

    The CPU limit of the cell is in force already. Lanes side by side take turns with one that runs alone, so that a
    noisy moment falls on both.

    Args:
        run_batch: must have as many free lanes as the cell.
        progress: called after every round.
    """

    async def together() -> list[BatchTime]:
        return await asyncio.gather(*(run_batch(cell.batch, cell.threads) for _ in range(cell.lanes)))

    for _ in range(WARM_UP_BATCHES):
        await together()
    times: list[BatchTime] = []
    alone: list[BatchTime] = []
    for _ in range(rounds):
        times += await together()
        if cell.lanes > 1:
            alone.append(await run_batch(cell.batch, cell.threads))
        progress()
    return MeasuredCell(cell, tuple(times), tuple(alone))


def profile_of(
    measured: Sequence[MeasuredCell],
    *,
    name: str,
    model: str,
    source: str,
    machine: str,
    percentile: Literal[50, 95, 99],
    form: Form | Literal["auto"] = "auto",
    memory: MemoryUse | None = None,
) -> Profile:
    """The profile of the cells that were measured, each of them once in `measured`.

    Whole numbers of cores make the points of l(b,k). What was measured under a fraction is kept beside them: the
    dispatch rule predicts it from l(b,k), and the file says how that went.

    Raises:
        ProfileError: the cells contradict each other, or none has a whole number of cores.
    """
    points = _points(measured)
    if not points:
        raise ProfileError("no cell with a whole number of cores was measured; add --cores 1")
    lanes = [_lane_point(m) for m in sorted(measured, key=lambda m: m.cell) if m.cell.lanes > 1]
    further = [(point.slowdown - 1.0) / (point.lanes - 1) for point in lanes]
    profile = Profile.from_points(
        points,
        name=name,
        model=model,
        source=source,
        machine=machine,
        percentile=percentile,
        form=form,
        cross_validated=True,
        interference=max(0.0, float(np.median(further))) if further else 0.0,
    )
    quotas = tuple(
        QuotaPoint(cores=c.cores, batch=c.batch, **percentiles([t.wall_s for t in m.times]))
        for c, m in ((m.cell, m) for m in sorted(measured, key=lambda m: m.cell))
        if not c.whole
    )
    return profile.model_copy(update={"memory": memory, "quotas": quotas, "lanes": tuple(lanes)})


def contradicting(measured: Sequence[MeasuredCell], percentile: int) -> list[Cell]:
    """Cells with a core for every thread of which a larger batch was faster than a smaller one by more than noise."""
    pairs = contradictions(_points(measured), percentile)
    bad = {(p.batch, p.threads) for pair in pairs for p in pair}
    return sorted(m.cell for m in measured if _is_point(m.cell) and (m.cell.batch, m.cell.threads) in bad)


def waiting_share(measured: Sequence[MeasuredCell]) -> float:
    """The share of their time, 0 to 1, for which batches on one whole core did not run but waited for a CPU.

    A batch computes from start to end, so this is the neighbours' doing: what was measured is theirs as much as the
    model's. 0 when nothing ran on one thread.
    """
    times = [t for m in measured if m.cell == Cell(1, m.cell.batch) for t in m.times]
    wall_s = sum(time.wall_s for time in times)
    return max(0.0, 1.0 - sum(time.cpu_s for time in times) / wall_s) if wall_s else 0.0


def _is_point(cell: Cell) -> bool:
    return cell.lanes == 1 and cell.whole


def _points(measured: Sequence[MeasuredCell]) -> list[GridPoint]:
    samples = {(m.cell.batch, m.cell.threads): m.times for m in measured if _is_point(m.cell)}
    return grid_points(samples, lambda time: time.wall_s)


def _lane_point(measured: MeasuredCell) -> LanePoint:
    alone, beside = ([t.wall_s for t in times] for times in (measured.alone, measured.times))
    return LanePoint(
        lanes=measured.cell.lanes,
        batch=measured.cell.batch,
        alone_p50_ms=percentiles(alone)["p50_ms"],
        **percentiles(beside),
    )
