"""Measures the cells of a profile on this machine: real lanes in a cgroup of their own.

Knows lanes and cgroups; which cells there are and what becomes of them is `sponge_profiles`' business. What is not
about the cgroup serves `profile_worker` in a pod as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sponge_core.errors import SpongeError
from sponge_profiler.checkpoint import Journal
from sponge_profiler.grid import Cell
from sponge_profiler.grid_run import measure_cells, rounds_left
from sponge_profiles.timing import BatchTime, RunBatch, machine_name
from sponge_system.cgroup import Cgroup, CgroupError, controller_root

if TYPE_CHECKING:
    from rich.console import Console

    from sponge_server.workers.pool import ForkedLanes

__all__ = ["Loaded", "OpenJournal", "Plan", "loaded", "measure", "measure_plan", "run_on", "surroundings", "take_notes"]

_GROUP = "sponge-profile-"

OpenJournal = Callable[[Mapping[str, str]], Journal]
"""Opens the journal of a measurement that depends on these facts."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    source: str
    name: str
    cells: Sequence[Cell]
    repeat: int

    @property
    def most_cores(self) -> float:
        return max(cell.cores for cell in self.cells)

    @property
    def largest_batch(self) -> int:
        return max(cell.batch for cell in self.cells)

    @property
    def lanes(self) -> int:
        return max(cell.lanes for cell in self.cells)

    def about(self, surroundings: Mapping[str, str], limit: str) -> dict[str, str]:
        """What every cell depends on: a measurement goes on only where all of it is the same."""
        return {"the model": self.source, **surroundings, "the CPU limit": limit, "--repeat": str(self.repeat)}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model on lanes that are ready, and what is known of it; `memory` has the fields of a profile's MemoryUse."""

    pool: ForkedLanes
    platform: str
    warning: str | None
    memory: dict[str, float] | None


@asynccontextmanager
async def loaded(source: str, name: str, max_batch: int, lanes: int, threads: int) -> AsyncIterator[Loaded]:
    """Lanes with the model, until the end of the block. Raises ModelError."""
    from sponge_server.startup.memory_plan import measure_memory
    from sponge_server.workers.interface import ModelError, ModelSpec
    from sponge_server.workers.pool import ForkedLanes

    pool = ForkedLanes([ModelSpec(name, source, max_batch)])
    try:
        try:
            await pool.start(lanes)
        except ModelError as refused:
            # The lanes know the option by the name that it has when they serve.
            why, _, most = str(refused).partition(f": use --max-batch {name}=")
            raise ModelError(f"{why}: leave sizes above {most} out of --batches" if most else why) from None
        # First of all: what a lane keeps of a batch is seen on a lane that has run none.
        memory, _ = await measure_memory(pool, threads, None)
        sizes = None
        if memory is not None:
            parts = {"base_mib": memory.base_bytes, "lane_mib": memory.lane_bytes, "item_mib": memory.item_bytes}
            sizes = {name: round(size / (1 << 20), 2) for name, size in parts.items()}
        info = pool.models[0]
        yield Loaded(pool, info.platform, info.warning, sizes)
    finally:
        await pool.close()


def surroundings(source: str) -> dict[str, str]:
    """What a batch's time depends on beside the model's name and the CPU limit: of the machine that this runs on."""
    return {
        "the model's file": _digest(source),
        "the software": ", ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision")),
        "the machine": machine_name(),
    }


def take_notes(
    journal: Journal, about: Mapping[str, str], limit: str, platform: str, memory: Mapping[str, float] | None
) -> None:
    """Keeps what the profile will say of how it came about: by which command, when, on what."""
    command = shlex.join(["sponge", *sys.argv[1:]])
    how = f"`{command}` on {datetime.now(UTC):%d %B %Y}, {limit}; {platform}, {about['the software']}"
    journal.note("how", how)
    journal.note("machine", about["the machine"])
    if memory is not None:
        journal.note("memory", dict(memory))


async def measure(plan: Plan, limited: bool, open_journal: OpenJournal, console: Console) -> None:
    """Measures what the journal does not hold yet; when it returns the journal holds every cell of the plan.

    Raises:
        ModelError: the model cannot be loaded.
        CgroupError: no limit can be set.
        asyncio.CancelledError: the process was told to end.
    """
    about = surroundings(plan.source)
    journal = open_journal(plan.about(about, "real" if limited else "none"))
    if not rounds_left(plan.cells, plan.repeat, journal):
        return
    task = asyncio.current_task()
    assert task is not None
    # Whoever ends this politely finds the cgroup removed, as after Ctrl-C.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with AsyncExitStack() as stack:
        with console.status(f"loading {plan.source}"):
            model = await stack.enter_async_context(
                loaded(plan.source, plan.name, plan.largest_batch, plan.lanes, max(1, int(plan.most_cores)))
            )
        if model.warning:
            console.print(f"note: {model.warning}", highlight=False, soft_wrap=True)
        limit = "under a real CPU limit" if limited else "with no CPU limit"
        take_notes(journal, about, limit, model.platform, model.memory)
        group = _limited(model.pool, plan.most_cores) if limited else None
        if group is not None:
            stack.callback(group.remove)

        async def set_cores(cores: float) -> None:
            if group is not None:
                group.set_quota_milli(round(cores * 1000))

        await measure_plan(plan, journal, partial(run_on, model.pool), set_cores, console)


async def measure_plan(
    plan: Plan,
    journal: Journal,
    run_batch: RunBatch,
    set_cores: Callable[[float], Awaitable[None]],
    console: Console,
) -> None:
    """Measures the plan's cells with a bar of progress."""
    columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("measuring", total=rounds_left(plan.cells, plan.repeat, journal))

        def ran(cell: Cell) -> None:
            bar.update(task, advance=1, description=str(cell))

        await measure_cells(run_batch, set_cores, plan.cells, plan.repeat, journal, ran)


def _limited(pool: ForkedLanes, cores: float) -> Cgroup:
    """The pool's processes in a cgroup of their own."""
    group = None
    try:
        _sweep()
        group = Cgroup.create(f"{_GROUP}{os.getpid()}", cores)
        for pid in pool.pids:
            group.add_pid(pid)
    except CgroupError as refused:
        if group is not None:
            group.remove()
        raise CgroupError(f"{refused}; --no-limit measures without a limit") from None
    return group


def _sweep() -> None:
    """Removes the cgroups of measurements that were killed."""
    for path in controller_root("cpu").glob(f"{_GROUP}*"):
        if not Path("/proc", path.name.removeprefix(_GROUP)).exists():
            Cgroup(path).remove()


async def run_on(pool: ForkedLanes, batch: int, threads: int) -> BatchTime:
    """Runs one batch on a free lane."""
    from sponge_server.workers.examples import example_item

    lane = next(lane for lane in pool.lanes if not lane.busy)
    result = await lane.run([example_item(pool.models[0], 1)] * batch, threads)
    for outputs in result.outputs:
        if isinstance(outputs, SpongeError):
            raise outputs
    return BatchTime(result.batch_s, result.cpu_s)


def _digest(source: str) -> str:
    """Of the file that a model is in, by its content; empty where a source has no file."""
    from sponge_server.models.source import parse

    parsed = parse(source)
    path: Path | None = None
    if parsed.scheme == "file":
        path = Path(parsed.target)
    elif parsed.scheme == "python":
        try:
            spec = find_spec(parsed.target.partition(":")[0])
        except (ImportError, ValueError):
            spec = None
        path = None if spec is None or spec.origin is None else Path(spec.origin)
    if path is None or not path.is_file():  # what is not there is refused when it is loaded
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
