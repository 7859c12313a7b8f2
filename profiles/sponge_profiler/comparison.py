"""Compares one model's runtimes and number formats on this machine: what `sponge profile --runtimes` prints.

Each is measured on real lanes, one after the other: alone on one thread, on more threads, and lanes side by side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from sponge_core.errors import SpongeError
from sponge_profiler.grid import MeasuredCell, grid_cells, measure_cell
from sponge_profiler.local import loaded, run_on
from sponge_system.cpu_flags import cpu_flags

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Compared", "compare_runtimes", "comparison_table", "summary", "variants_of"]


@dataclass(frozen=True, slots=True)
class Compared:
    """One runtime in one number format.

    Attributes:
        why_not: why it cannot run the model here; everything below is None then.
        alone_ms: median of a batch of 1 on one thread.
        fastest_ms: the least median of a batch of 1, and its thread count.
        rows_per_s: the most rows a second on all cores, with `best` as (batch, threads, lanes).
        lane_mib, item_mib: memory of a lane, and of a row of its largest batch.
    """

    runtime: str
    dtype: str
    why_not: str | None = None
    alone_ms: float | None = None
    fastest_ms: tuple[float, int] | None = None
    rows_per_s: float | None = None
    best: tuple[int, int, int] | None = None
    lane_mib: float | None = None
    item_mib: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def variants_of(runtimes: Sequence[str]) -> list[tuple[str, str]]:
    """Each runtime with its formats: fp32, bf16 where this CPU computes in it, and in ONNX Runtime int8."""
    flags = cpu_flags()
    formats = ("fp32", "bf16") if {"avx512_bf16", "amx_bf16"} & flags else ("fp32",)
    found = [(runtime, dtype) for runtime in runtimes for dtype in formats]
    return found + [(runtime, "int8") for runtime in runtimes if runtime == "onnx"]


def compare_runtimes(
    source: str, variants: Sequence[tuple[str, str]], cores: int, batches: Sequence[int], repeat: int, console: Console
) -> list[Compared]:
    """Measures each (runtime, dtype) on 1 to `cores` threads, without a CPU limit.

    Args:
        repeat: rounds of each cell, >= 1.
        console: for progress.

    Raises:
        SpongeError: no variant can run the model; the message has every reason.
    """
    found = [asyncio.run(_measured(source, *variant, cores, batches, repeat, console)) for variant in variants]
    if all(one.why_not for one in found):
        raise SpongeError("; ".join(f"{one.runtime} in {one.dtype}: {one.why_not}" for one in found))
    return found


def summary(runtime: str, dtype: str, measured: Sequence[MeasuredCell], memory: dict[str, float] | None) -> Compared:
    """The row of the table from the measured cells, of which one is a batch of 1 on one core."""
    times = {each.cell: median(time.wall_s for time in each.times) for each in measured}
    single = {cell: taken for cell, taken in times.items() if cell.batch == 1 and cell.lanes == 1}
    alone = min(single, key=lambda cell: cell.cores)
    fastest = min(single, key=lambda cell: single[cell])
    most = max(times, key=lambda cell: cell.lanes * cell.batch / times[cell])
    return Compared(
        runtime,
        dtype,
        alone_ms=round(single[alone] * 1e3, 3),
        fastest_ms=(round(single[fastest] * 1e3, 3), fastest.threads),
        rows_per_s=round(most.lanes * most.batch / times[most], 1),
        best=(most.batch, most.threads, most.lanes),
        lane_mib=None if memory is None else memory["lane_mib"],
        item_mib=None if memory is None else memory["item_mib"],
    )


def comparison_table(found: Sequence[Compared], source: str, cores: int) -> Table:
    """The table for a terminal: the most rows a second first, what cannot run last."""
    table = Table(box=box.SIMPLE, title=f"{source} on {cores} core{'s' if cores > 1 else ''}", title_justify="left")
    for head in ("runtime", "dtype"):
        table.add_column(head)
    for head in ("ms, b=1, 1 thread", "ms, b=1, best", "rows/s", "at", "MiB a lane", "MiB a row"):
        table.add_column(head, justify="right")
    for one in sorted(found, key=lambda each: -(each.rows_per_s or 0.0)):
        if one.fastest_ms is None or one.best is None:
            table.add_row(one.runtime, one.dtype, *["-"] * 6)
            continue
        batch, threads, lanes = one.best
        table.add_row(
            one.runtime,
            one.dtype,
            f"{one.alone_ms:.2f}",
            f"{one.fastest_ms[0]:.2f} on {one.fastest_ms[1]}",
            f"{one.rows_per_s:.1f}",
            f"b={batch}, {lanes} x {threads}",
            *("-" if size is None else f"{size:.0f}" for size in (one.lane_mib, one.item_mib)),
        )
    return table


async def _measured(
    source: str, runtime: str, dtype: str, cores: int, batches: Sequence[int], repeat: int, console: Console
) -> Compared:
    from sponge_server.models.source import with_options

    cells = grid_cells(sorted({1, cores}), sorted({1, *batches}))
    with console.status(f"{runtime} in {dtype}: loading") as status:
        try:
            url = with_options(source, runtime, dtype, accept_accuracy=False)
            async with loaded(url, runtime, max(batches), cores, cores) as model:
                measured = []
                for cell in cells:
                    status.update(f"{runtime} in {dtype}: {cell}")
                    measured.append(await measure_cell(partial(run_on, model.pool), cell, repeat))
        except SpongeError as error:
            return Compared(runtime, dtype, why_not=str(error).removeprefix(f"model {runtime}: "))
    return summary(runtime, dtype, measured, model.memory)
