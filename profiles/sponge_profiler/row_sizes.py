"""Measures rows of several sizes, for models whose rows differ in work: tokens of a text, samples of a sound.

The model declares the range (`RowSize` in the server). The sizes are measured after the grid of cells, on one thread
and on the most threads of that grid, and are kept in the checkpoint as one note.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from pydantic import BaseModel, ConfigDict

from sponge_core.errors import ProfileError
from sponge_profiler.checkpoint import Checkpoint
from sponge_profiler.grid import GridCell
from sponge_profiles.points import SizedPoint
from sponge_profiles.profile import Profile
from sponge_profiles.size_fit import Join
from sponge_profiles.timing import RunSized, SizedCell, sized_grid, sized_points, sized_rounds

__all__ = [
    "DeclaredSizes",
    "MeasuredSizes",
    "measure_row_sizes",
    "sized_batches_left",
    "sizes_left",
    "with_measured_sizes",
]

NOTE = "sizes"


class DeclaredSizes(BaseModel):
    """What a model says of its rows: sizes to measure, the one of examples, and what a batch of several costs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sizes: tuple[int, ...]
    reference: int
    join: Join


class MeasuredSizes(BaseModel):
    """The note in the checkpoint: the points, on up to `threads` threads in batches of up to `max_batch`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threads: int
    max_batch: int
    reference: int
    join: Join
    points: tuple[SizedPoint, ...]


def sizes_left(cells: Sequence[GridCell], checkpoint: Checkpoint) -> bool:
    """Whether the sizes have yet to be measured for this grid, or it is not known whether the model has any."""
    if NOTE not in checkpoint.notes:
        return True
    found = _kept(checkpoint)
    return found is not None and (found.threads, found.max_batch) != _most(cells)


def sized_batches_left(cells: Sequence[GridCell], declared: DeclaredSizes | None, checkpoint: Checkpoint) -> int:
    """The number of times that `measure_row_sizes` will call `progress`."""
    if declared is None or not sizes_left(cells, checkpoint):
        return 0
    return sized_rounds(_grid(cells, declared))


async def measure_row_sizes(
    run_batch: RunSized,
    set_cores: Callable[[float], Awaitable[None]],
    cells: Sequence[GridCell],
    declared: DeclaredSizes | None,
    checkpoint: Checkpoint,
    progress: Callable[[], None],
) -> None:
    """Measures the sizes that the model declares, unless the checkpoint has them.

    Args:
        set_cores: puts a CPU limit in force.
        cells: of the grid, whose most threads and largest batch bound those of the sizes.
        declared: None: all rows cost the same.
        progress: called after every batch.
    """
    if not sizes_left(cells, checkpoint):
        return
    if declared is None:
        checkpoint.note(NOTE, None)
        return
    threads, max_batch = _most(cells)
    await set_cores(float(threads))
    points = await sized_points(run_batch, _grid(cells, declared), progress=progress)
    found = MeasuredSizes(
        threads=threads,
        max_batch=max_batch,
        reference=declared.reference,
        join=declared.join,
        points=tuple(points),
    )
    checkpoint.note(NOTE, found.model_dump(mode="json"))


def with_measured_sizes(profile: Profile, checkpoint: Checkpoint) -> Profile:
    """The profile with the sizes of the checkpoint, if the model has any. Raises ProfileError."""
    found = _kept(checkpoint)
    return profile if found is None else profile.with_sizes(found.points, found.reference, found.join)


def _kept(checkpoint: Checkpoint) -> MeasuredSizes | None:
    note = checkpoint.notes.get(NOTE)
    try:
        return None if note is None else MeasuredSizes.model_validate(note)
    except ValueError:
        raise ProfileError(
            f"'{checkpoint.path}' holds sizes of rows that cannot be read; use --restart to measure everything again"
        ) from None


def _grid(cells: Sequence[GridCell], declared: DeclaredSizes) -> list[SizedCell]:
    return sized_grid(declared.sizes, declared.reference, *_most(cells))


def _most(cells: Sequence[GridCell]) -> tuple[int, int]:
    """The most threads and the largest batch."""
    return max(cell.threads for cell in cells if cell.whole), max(cell.batch for cell in cells)
