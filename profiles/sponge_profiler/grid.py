"""The grid of a profile: its cells, the measurement of one cell, and the profile made of measured cells.

The caller sets the CPU limit of a cell and passes a function that runs one batch under it, on lanes in a cgroup of this
machine or in a pod that is resized in place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sponge_core.cpu_sharing import thread_budget
from sponge_core.errors import ProfileError
from sponge_profiles.points import GridPoint, LanePoint, QuotaPoint, contradictions
from sponge_profiles.profile import MemoryUse, Profile
from sponge_profiles.timing import BatchTime, RunBatch, grid_points, percentiles
from sponge_profiles.validation import Form

__all__ = [
    "LEAST_CORES",
    "GridCell",
    "MeasuredCell",
    "contradicting",
    "grid_cells",
    "measure_cell",
    "profile_of",
    "waiting_share",
]

LEAST_CORES = 0.05
"""Under less, a batch takes longer than anyone waits for an answer."""

WARM_UP_BATCHES = 2
"""Batches of each lane before the counted ones: a new thread count starts its threads, a new size gets its memory."""


@dataclass(frozen=True, slots=True, order=True)
class GridCell:
    """One point to measure: a batch size under a CPU limit of `cores`.

    One lane runs on as many threads as the limit allows. Several lanes each run the same batch on one thread, and the
    limit has a core for each.
    """

    cores: float
    batch: int
    lanes: int = 1

    @property
    def threads(self) -> int:
        """The threads of each lane."""
        return 1 if self.lanes > 1 else thread_budget(self.cores)

    @property
    def whole(self) -> bool:
        """Whether there is a core for every thread, so that nothing is throttled."""
        return float(self.cores).is_integer()

    def __str__(self) -> str:
        cores = f"{self.cores:g} core{'s' if self.cores > 1 else ''}, batch {self.batch}"
        return cores if self.lanes == 1 else f"{cores}, {self.lanes} lanes"


@dataclass(frozen=True, slots=True)
class MeasuredCell:
    """The times of the batches of one cell. With several lanes, `alone` has the same batch on one lane, in between."""

    cell: GridCell
    times: tuple[BatchTime, ...]
    alone: tuple[BatchTime, ...] = ()

    def more(self, other: MeasuredCell) -> MeasuredCell:
        """This and another visit to the same cell together."""
        return MeasuredCell(self.cell, self.times + other.times, self.alone + other.alone)


def grid_cells(cores: Sequence[float], batches: Sequence[int]) -> list[GridCell]:
    """The cells in the order to measure them: by CPU limit, because changing the limit takes time.

    Lanes side by side are measured at every whole number of cores from 2.

    Args:
        cores: CPU limits, at least one of them whole.
        batches: batch sizes, >= 1.

    Raises:
        ProfileError: no profile can be made of this grid.
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
        cells += [GridCell(limit, batch) for batch in sizes]
        if limit >= 2 and float(limit).is_integer():
            cells += [GridCell(limit, batch, lanes=int(limit)) for batch in sizes]
    return cells


async def measure_cell(
    run_batch: RunBatch, cell: GridCell, rounds: int, progress: Callable[[], None] = lambda: None
) -> MeasuredCell:
    """Measures one cell under its CPU limit, which the caller has set.

    Lanes side by side take turns with one that runs alone, so that a noisy moment affects both.

    Args:
        run_batch: runs one batch; it must have as many free lanes as the cell.
        rounds: counted rounds, >= 1, after some that warm up.
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
    """Makes a profile of measured cells.

    Cells with a whole number of cores are the points of l(b, k). Cells under a fraction of a core are kept beside them:
    the dispatch rule predicts them from l(b, k), and the file shows how well.

    Args:
        measured: each cell at most once.
        percentile: the percentile of the times that the model predicts.
        form: `auto` takes the form that predicts unseen points better.

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


def contradicting(measured: Sequence[MeasuredCell], percentile: int) -> list[GridCell]:
    """The cells, with a core for every thread, where a larger batch was faster than a smaller one beyond noise."""
    pairs = contradictions(_points(measured), percentile)
    bad = {(p.batch, p.threads) for pair in pairs for p in pair}
    return sorted(m.cell for m in measured if _is_point(m.cell) and (m.cell.batch, m.cell.threads) in bad)


def waiting_share(measured: Sequence[MeasuredCell]) -> float:
    """The share of time, 0 to 1, that batches on one whole core waited for a CPU; 0 if nothing ran on one thread.

    A batch computes from start to end, so other processes caused this, and the measurement is partly theirs.
    """
    times = [t for m in measured if m.cell == GridCell(1, m.cell.batch) for t in m.times]
    wall_s = sum(time.wall_s for time in times)
    return max(0.0, 1.0 - sum(time.cpu_s for time in times) / wall_s) if wall_s else 0.0


def _is_point(cell: GridCell) -> bool:
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
