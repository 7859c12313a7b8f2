"""Measures the cells of a grid one after the other, keeps each at once, and goes on where an earlier run ended.

Every cell is visited twice, with the rest of the grid between: what disturbs the machine for a while then falls on half
of a cell's batches, not on all. Knows nothing of where batches run or of how a CPU limit is set.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from sponge_profiler.checkpoint import Journal
from sponge_profiler.grid import Cell, measure_cell
from sponge_profiles.timing import RunBatch

__all__ = ["VISITS", "measure_cells", "rounds_left"]

VISITS = 2


async def measure_cells(
    run_batch: RunBatch,
    set_cores: Callable[[float], Awaitable[None]],
    cells: Sequence[Cell],
    repeat: int,
    journal: Journal,
    progress: Callable[[Cell], None] = lambda _: None,
) -> None:
    """Measures what `journal` does not hold yet.

    Args:
        set_cores: puts a CPU limit in force; called before the first cell and whenever the next one asks for another.
        cells: in the order to measure them in.
        repeat: batches of each cell, or rounds where lanes run side by side; at least VISITS.
        progress: called after every round.
    """
    cores: float | None = None
    for visit, rounds in enumerate(_rounds(repeat)):
        for cell in cells:
            if journal.has(cell, visit):
                continue
            if cell.cores != cores:
                await set_cores(cell.cores)
                cores = cell.cores
            journal.add(visit, await measure_cell(run_batch, cell, rounds, partial(progress, cell)))


def rounds_left(cells: Sequence[Cell], repeat: int, journal: Journal) -> int:
    """How often `progress` will be called."""
    return sum(rounds for visit, rounds in enumerate(_rounds(repeat)) for cell in cells if not journal.has(cell, visit))


def _rounds(repeat: int) -> list[int]:
    """Of each visit."""
    return [repeat // VISITS + (1 if visit < repeat % VISITS else 0) for visit in range(VISITS)]
