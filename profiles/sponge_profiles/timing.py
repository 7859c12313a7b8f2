"""Times batches over a grid of sizes and threads, and makes a quick profile of them.

The caller passes a function that runs one batch on a real lane. This module decides what to run, how often, which clock
counts, and when to stop.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, TypeVar

import numpy as np

from sponge_core.errors import ProfileError
from sponge_profiles.points import GridPoint, SizedPoint
from sponge_profiles.profile import Profile
from sponge_profiles.size_fit import Join

__all__ = [
    "BatchTime",
    "Grow",
    "Percentiles",
    "RunBatch",
    "RunSized",
    "Samples",
    "SizedCell",
    "cpu_type",
    "grid_points",
    "machine_name",
    "measure_grid",
    "measure_interference",
    "measure_sizes",
    "percentiles",
    "quick_profile",
    "sized_grid",
    "sized_points",
    "sized_rounds",
]

_QUICK_ROUNDS = 20
_WALK_ROUNDS = 10
_SIZED_ROUNDS = 15
_SIZED_BATCH = 4
"""Rows of a batch that tells what more rows cost. Where rows differ in size, few batches are larger."""
_QUICK_PERCENTILE: Literal[95] = 95


@dataclass(frozen=True, slots=True)
class BatchTime:
    """One batch: wall seconds, and CPU seconds of all threads that worked on it."""

    wall_s: float
    cpu_s: float


RunBatch = Callable[[int, int], Awaitable[BatchTime]]
"""Runs one batch, given (batch, threads), on a free lane; may be called for several lanes at once."""

RunSized = Callable[[int, int, int], Awaitable[BatchTime]]
"""The same for rows of one size, given (batch, threads, size)."""

SizedCell = tuple[int, int, int]
"""A batch of rows of one size: (batch, threads, size)."""

Grow = Callable[[int], Awaitable[bool]]
"""Asks for a CPU limit of so many cores; returns whether it is in force."""


class Percentiles(TypedDict):
    """The measured fields of a profile's point."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    n: int


Cell = TypeVar("Cell", bound=tuple[int, ...])

Samples = Mapping[tuple[int, int], Sequence[BatchTime]]
"""Measured times by (batch, threads)."""


async def measure_grid(
    run_batch: RunBatch,
    grid: Sequence[tuple[int, int]],
    rounds: int,
    budget_s: float = float("inf"),
    progress: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> Samples:
    """Runs the grid round after round, so that a noisy moment affects all sizes alike.

    The first round warms up and does not count, unless the budget ends with it. A size that the budget never reached is
    missing from the result.

    Args:
        grid: (batch, threads) in the order to run; put the cheapest first if the budget is tight.
        rounds: counted rounds, >= 1.
        budget_s: start no batch after this many seconds.
        progress: called after every batch, (rounds + 1) * len(grid) times if the budget allows.
    """
    return await _rounds(lambda cell: run_batch(*cell), grid, grid[:1], rounds, budget_s, progress, clock)


async def _rounds(
    run: Callable[[Cell], Awaitable[BatchTime]],
    cells: Sequence[Cell],
    needed: Sequence[Cell],
    rounds: int,
    budget_s: float,
    progress: Callable[[], None],
    clock: Callable[[], float],
) -> dict[Cell, list[BatchTime]]:
    """As `measure_grid`, for cells of any kind. The `needed` ones run once even if the budget is spent."""
    warm: dict[Cell, list[BatchTime]] = {}
    counted: dict[Cell, list[BatchTime]] = {}
    start = clock()
    for number in range(rounds + 1):
        into = counted if number else warm
        for cell in cells:
            if clock() - start >= budget_s and (number or cell not in needed):
                continue
            into.setdefault(cell, []).append(await run(cell))
            progress()
        if clock() - start >= budget_s:
            break
    return warm | counted


async def measure_interference(
    run_batch: RunBatch, alone: Samples, batches: Sequence[int], lanes: int, rounds: int
) -> float:
    """Measures the fraction, >= 0, by which each additional lane slows a lane, with one thread on each.

    A batch alone and one on every lane take turns, so that a noisy moment affects both.

    Args:
        alone: what could be measured with no other lane running.
        batches: the batch sizes to run; those without a time in `alone` are skipped.
        lanes: the number of lanes side by side, >= 2; the CPU limit must have a core for each.
    """
    slowdowns = []
    for batch in batches:
        if (batch, 1) not in alone:
            continue
        single: list[float] = []
        beside: list[float] = []
        for _ in range(rounds):
            single.append((await run_batch(batch, 1)).wall_s)
            times = await asyncio.gather(*(run_batch(batch, 1) for _ in range(lanes)))
            beside += [t.wall_s for t in times]
        slowdowns.append((float(np.median(beside)) / float(np.median(single)) - 1.0) / (lanes - 1))
    return max(0.0, float(np.median(slowdowns))) if slowdowns else 0.0


def grid_points(samples: Samples, seconds: Callable[[BatchTime], float]) -> list[GridPoint]:
    """Percentiles by (batch, threads); `seconds` picks the clock that counts."""
    points = [
        GridPoint(batch=batch, threads=threads, **percentiles([seconds(t) for t in times]))
        for (batch, threads), times in samples.items()
    ]
    return sorted(points, key=lambda p: (p.batch, p.threads))


def percentiles(seconds: Sequence[float]) -> Percentiles:
    """The percentiles of at least one time, in the form of a profile's point."""
    p50, p95, p99 = (round(float(q) * 1e3, 4) for q in np.quantile(seconds, (0.5, 0.95, 0.99)))
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "n": len(seconds)}


async def quick_profile(
    run_batch: RunBatch,
    batches: Sequence[int],
    threads: Sequence[int],
    quota_cores: float,
    budget_s: float,
    *,
    model: str,
    lanes: int = 1,
    grow: Grow | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Profile:
    """Measures a profile in a serving process while it warms up, under its present CPU limit.

    Where `grow` brings it a larger limit, thread counts above the present one are measured too, in doubling steps.

    One-thread times are CPU times: under a fractional quota the wall clock includes throttling, which the scheduler
    accounts for separately. More threads are timed by the wall clock, and only if the quota has a core for each;
    otherwise their gain is assumed (`fitting.DEFAULT_PARALLEL_SHARE`).

    Args:
        batches: sizes to measure, each >= 1.
        threads: thread counts to measure; 1 is added if it is missing.
        quota_cores: the CPU limit in force (the machine's CPUs if unlimited), > 0.
        budget_s: start no batch of the grid after this many seconds; larger limits get as long once more.
        grow: asks for a CPU limit of so many cores; whether it is in force.
        lanes: the lanes that `run_batch` can use at once; from two on, with cores for both, interference is measured.

    Raises:
        ProfileError: there are no batches to measure, or no model explains the times.
    """
    if not batches:
        raise ProfileError("no batch sizes to measure; give at least one")
    sizes = sorted(set(batches))
    counts = [1] + [k for k in sorted(set(threads)) if 1 < k <= quota_cores]
    samples = dict(
        await measure_grid(run_batch, [(b, k) for k in counts for b in sizes], _QUICK_ROUNDS, budget_s, clock=clock)
    )
    steps = _doubling(threads, quota_cores) if grow is not None else []
    limit_cores = quota_cores
    for step in steps:
        if grow is None or not await grow(step):
            break
        limit_cores = float(step)
        cells = [(b, step) for b in sizes]
        samples |= await measure_grid(run_batch, cells, _WALK_ROUNDS, budget_s / len(steps), clock=clock)
    points = [
        *grid_points({key: t for key, t in samples.items() if key[1] == 1}, lambda t: t.cpu_s),
        *grid_points({key: t for key, t in samples.items() if key[1] > 1}, lambda t: t.wall_s),
    ]
    interference = 0.0
    if lanes >= 2 and limit_cores >= 2:
        side_by_side = min(lanes, int(limit_cores))
        interference = await measure_interference(run_batch, samples, sizes[:1], side_by_side, rounds=5)
    # In a thread: the first fit imports scipy, and a server answers its probes meanwhile.
    return await asyncio.to_thread(
        Profile.from_points,
        _never_faster(points),
        name=f"{model}-auto",
        model=model,
        source=f"measured at start under limits up to {limit_cores:g} cores; one-thread times are CPU times",
        machine=machine_name(),
        percentile=_QUICK_PERCENTILE,
        interference=interference,
        max_batch=sizes[-1],
    )


async def measure_sizes(
    run_batch: RunSized,
    profile: Profile,
    sizes: Sequence[int],
    reference: int,
    join: Join,
    budget_s: float,
    throttled: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Profile:
    """Measures rows of other sizes, on one thread and on the most threads of a profile, and fits it anew.

    Args:
        run_batch: runs one batch, given (batch, threads, size).
        profile: of rows of the reference size.
        join: what a batch of several sizes costs.
        budget_s: start no batch after this many seconds, but for one of each size.
        throttled: as for `sized_points`.

    Returns:
        The profile with sizes.
    """
    most = max(point.threads for point in profile.points)
    grid = sized_grid(sizes, reference, most, profile.max_batch)
    points = await sized_points(run_batch, grid, budget_s, throttled, clock=clock)
    return await asyncio.to_thread(profile.with_sizes, points, reference, join)


def sized_grid(sizes: Sequence[int], reference: int, threads: int, max_batch: int) -> list[SizedCell]:
    """What tells how time grows with size: single rows of every size, and batches of the reference and a smaller size.

    Args:
        threads: the most; each cell runs on one thread as well.
    """
    batch = min(_SIZED_BATCH, max_batch)
    singles = sorted({*sizes, reference})
    several = {reference, singles[len(singles) // 4]} if batch > 1 else set()
    cells = [(1, size) for size in singles] + [(batch, size) for size in sorted(several)]
    # Both thread counts of a cell in a row: their ratio is what must be right.
    return [(rows, count, size) for rows, size in cells for count in sorted({1, threads})]


def sized_rounds(grid: Sequence[SizedCell]) -> int:
    """The number of times that `sized_points` calls `progress`, if its budget allows."""
    return (_SIZED_ROUNDS + 1) * len(grid)


async def sized_points(
    run_batch: RunSized,
    grid: Sequence[SizedCell],
    budget_s: float = float("inf"),
    throttled: bool = False,
    progress: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[SizedPoint]:
    """Measures a grid of `sized_grid`. Its cells take turns: a noisy moment then bends neither the curve nor the gain.

    Args:
        budget_s: start no batch after this many seconds, but for one single row of each size.
        throttled: the CPU limit is below a core; one thread is then timed by its CPU time, as in `quick_profile`.
        progress: called after every batch.
    """
    needed = [cell for cell in grid if cell[:2] == (1, 1)]
    samples = await _rounds(lambda cell: run_batch(*cell), grid, needed, _SIZED_ROUNDS, budget_s, progress, clock)
    return [
        SizedPoint(
            batch=rows,
            threads=threads,
            size=size,
            **percentiles([time.cpu_s if throttled and threads == 1 else time.wall_s for time in times]),
        )
        for (rows, threads, size), times in samples.items()
    ]


def _doubling(threads: Sequence[int], above: float) -> list[int]:
    """2, 4, 8, ... up to the most threads, without those that `above` cores have room for."""
    most = max(threads, default=1)
    return [k for k in sorted({most, *(1 << power for power in range(1, most.bit_length()))}) if k > max(1.0, above)]


def cpu_type() -> str:
    """The kind of this machine's processor, in letters, digits and '-'."""
    name = machine_name().rpartition(",")[0]
    return re.sub(r"[^a-z0-9]+", "-", f"{platform.machine()} {name}".lower()).strip("-")[:120]


def machine_name() -> str:
    """The name of the processor and the number of CPUs that this process may use."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{name}, {len(os.sched_getaffinity(0))} CPUs"


def _never_faster(points: Sequence[GridPoint]) -> list[GridPoint]:
    """Raises a larger batch to the time of a smaller one, because a starting server cannot measure again."""
    lifted = []
    floor: dict[int, dict[str, float]] = {}
    for point in sorted(points, key=lambda p: (p.threads, p.batch)):
        least = floor.setdefault(point.threads, {})
        for field in ("p50_ms", "p95_ms", "p99_ms"):
            least[field] = max(least.get(field, 0.0), getattr(point, field))
        lifted.append(point.model_copy(update=dict(least)))
    return lifted
