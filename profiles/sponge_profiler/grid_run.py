"""Runs a grid cell by cell, saves each cell at once, and continues where an earlier run ended.

Every cell is visited twice, with the rest of the grid in between. A disturbance of the machine then affects half of a
cell's batches, not all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from sponge_profiler.checkpoint import Checkpoint
from sponge_profiler.grid import GridCell, measure_cell
from sponge_profiles.timing import RunBatch

__all__ = ["VISITS", "rounds_left", "run_grid"]

VISITS = 2


async def run_grid(
    run_batch: RunBatch,
    set_cores: Callable[[float], Awaitable[None]],
    cells: Sequence[GridCell],
    repeat: int,
    checkpoint: Checkpoint,
    progress: Callable[[GridCell], None] = lambda _: None,
) -> None:
    """Measures the visits that `checkpoint` does not hold yet.

    Args:
        set_cores: puts a CPU limit in force; called before the first cell and at each change of the limit.
        cells: in the order to measure them.
        repeat: batches of each cell (rounds, for lanes side by side), at least VISITS.
        progress: called after every round.
    """
    cores: float | None = None
    for visit, rounds in enumerate(_rounds(repeat)):
        for cell in cells:
            if checkpoint.has(cell, visit):
                continue
            if cell.cores != cores:
                await set_cores(cell.cores)
                cores = cell.cores
            checkpoint.add(visit, await measure_cell(run_batch, cell, rounds, partial(progress, cell)))


def rounds_left(cells: Sequence[GridCell], repeat: int, checkpoint: Checkpoint) -> int:
    """The number of times that `run_grid` will call `progress`."""
    return sum(
        rounds for visit, rounds in enumerate(_rounds(repeat)) for cell in cells if not checkpoint.has(cell, visit)
    )


def _rounds(repeat: int) -> list[int]:
    """The rounds of each visit."""
    return [repeat // VISITS + (1 if visit < repeat % VISITS else 0) for visit in range(VISITS)]
