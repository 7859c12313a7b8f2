"""Measures a grid on this machine, on real lanes in a cgroup of their own.

The parts that do not concern the cgroup also serve `worker` in a pod.
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
from typing import TYPE_CHECKING, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sponge_core.errors import SpongeError
from sponge_profiler.checkpoint import Checkpoint
from sponge_profiler.grid import GridCell
from sponge_profiler.grid_run import rounds_left, run_grid
from sponge_profiler.row_sizes import DeclaredSizes, measure_row_sizes, sized_batches_left, sizes_left
from sponge_profiles.timing import BatchTime, machine_name
from sponge_system.cgroup import Cgroup, CgroupError, controller_root

if TYPE_CHECKING:
    from rich.console import Console

    from sponge_server.workers.interface import ModelInfo
    from sponge_server.workers.pool import WorkerPool

__all__ = [
    "LoadedModel",
    "MeasurementPlan",
    "OpenCheckpoint",
    "RunOn",
    "loaded",
    "measure",
    "measure_plan",
    "record_provenance",
    "run_on",
    "surroundings",
]

_GROUP = "sponge-profile-"


class RunOn(Protocol):
    """A `RunBatch` and a `RunSized` in one."""

    def __call__(self, batch: int, threads: int, size: int | None = None, /) -> Awaitable[BatchTime]: ...


OpenCheckpoint = Callable[[Mapping[str, str]], Checkpoint]
"""Opens the checkpoint of a measurement, given the facts that it depends on."""


@dataclass(frozen=True, slots=True)
class MeasurementPlan:
    """What to measure.

    Attributes:
        source: of the model.
        name: the model's name.
        cells: in the order to measure them.
        repeat: batches of each cell.
    """

    source: str
    name: str
    cells: Sequence[GridCell]
    repeat: int

    @property
    def most_cores(self) -> float:
        """The largest CPU limit, in cores."""
        return max(cell.cores for cell in self.cells)

    @property
    def largest_batch(self) -> int:
        return max(cell.batch for cell in self.cells)

    @property
    def lanes(self) -> int:
        return max(cell.lanes for cell in self.cells)

    def about(self, surroundings: Mapping[str, str], limit: str) -> dict[str, str]:
        """The facts that every cell depends on: a measurement continues only if they are all the same."""
        return {"the model": self.source, **surroundings, "the CPU limit": limit, "--repeat": str(self.repeat)}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on lanes that are ready; `memory` has the fields of a profile's `MemoryUse`; `sizes`: of its rows."""

    pool: WorkerPool
    platform: str
    warning: str | None
    memory: dict[str, float] | None
    sizes: DeclaredSizes | None


@asynccontextmanager
async def loaded(source: str, name: str, max_batch: int, lanes: int, threads: int) -> AsyncIterator[LoadedModel]:
    """Loads the model on lanes until the end of the block. Raises ModelError."""
    from sponge_server.startup.memory_plan import measure_memory
    from sponge_server.workers.interface import ModelError, ModelSpec, StartLimits
    from sponge_server.workers.pool import WorkerPool

    limits = StartLimits()
    pool = WorkerPool([ModelSpec(name, source, max_batch)], limits)
    try:
        try:
            await pool.start(lanes)
        except ModelError as refused:
            # The error names the option of `sponge serve`.
            why, _, most = str(refused).partition(f": use --max-batch {name}=")
            raise ModelError(f"{why}: leave sizes above {most} out of --batches" if most else why) from None
        if max_batch > 1 and not pool.models[0].batched:
            raise ModelError(f"model {name} has no batch, a request is one run: leave sizes above 1 out of --batches")
        # Before any batch: the memory that a lane keeps shows only on a lane that has run none.
        memory, _ = await measure_memory(pool, threads, None, limits.example_s)
        mib = None
        if memory is not None:
            parts = {"base_mib": memory.base_bytes, "lane_mib": memory.lane_bytes, "item_mib": memory.item_bytes}
            mib = {name: round(size / (1 << 20), 2) for name, size in parts.items()}
        info = pool.models[0]
        yield LoadedModel(pool, info.platform, info.warning, mib, _sizes_of(info))
    finally:
        await pool.close()


def _sizes_of(info: ModelInfo) -> DeclaredSizes | None:
    if info.size is None:
        return None
    sizes, join = tuple(info.size.measured), info.size.join(info.inputs)
    return DeclaredSizes(sizes=sizes, reference=info.size.reference, join=join)


def surroundings(source: str) -> dict[str, str]:
    """Facts of this machine that a batch's time depends on, beside the model's name and the CPU limit."""
    return {
        "the model's file": _digest(source),
        "the software": ", ".join(f"{name} {_version(name)}" for name in _packages(source)),
        "the machine": machine_name(),
    }


def record_provenance(
    checkpoint: Checkpoint, about: Mapping[str, str], limit: str, platform: str, memory: Mapping[str, float] | None
) -> None:
    """Saves the provenance of the profile in the checkpoint: the command, the date, the machine, the software."""
    command = shlex.join(["sponge", *sys.argv[1:]])
    how = f"`{command}` on {datetime.now(UTC):%d %B %Y}, {limit}; {platform}, {about['the software']}"
    checkpoint.note("how", how)
    checkpoint.note("machine", about["the machine"])
    if memory is not None:
        checkpoint.note("memory", dict(memory))


async def measure(plan: MeasurementPlan, limited: bool, open_checkpoint: OpenCheckpoint, console: Console) -> None:
    """Measures the cells that the checkpoint lacks; when it returns, the checkpoint holds every cell of the plan.

    Args:
        limited: set a real CPU limit for each cell.

    Raises:
        ModelError: the model cannot be loaded.
        CgroupError: no limit can be set.
        asyncio.CancelledError: the process received SIGTERM.
    """
    about = surroundings(plan.source)
    checkpoint = open_checkpoint(plan.about(about, "real" if limited else "none"))
    if not rounds_left(plan.cells, plan.repeat, checkpoint) and not sizes_left(plan.cells, checkpoint):
        return
    task = asyncio.current_task()
    assert task is not None
    # On SIGTERM remove the cgroup, as after Ctrl-C.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with AsyncExitStack() as stack:
        with console.status(f"loading {plan.source}"):
            model = await stack.enter_async_context(
                loaded(plan.source, plan.name, plan.largest_batch, plan.lanes, max(1, int(plan.most_cores)))
            )
        if model.warning:
            console.print(f"note: {model.warning}", highlight=False, soft_wrap=True)
        limit = "under a real CPU limit" if limited else "with no CPU limit"
        record_provenance(checkpoint, about, limit, model.platform, model.memory)
        group = _limited(model.pool, plan.most_cores) if limited else None
        if group is not None:
            stack.callback(group.remove)

        async def set_cores(cores: float) -> None:
            if group is not None:
                group.set_quota_milli(round(cores * 1000))

        await measure_plan(plan, checkpoint, partial(run_on, model.pool), model.sizes, set_cores, console)


async def measure_plan(
    plan: MeasurementPlan,
    checkpoint: Checkpoint,
    run_batch: RunOn,
    sizes: DeclaredSizes | None,
    set_cores: Callable[[float], Awaitable[None]],
    console: Console,
) -> None:
    """Measures the plan's cells, then rows of the sizes that the model declares, with a progress bar."""
    columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    left = rounds_left(plan.cells, plan.repeat, checkpoint)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("measuring", total=left + sized_batches_left(plan.cells, sizes, checkpoint))

        def ran(what: object) -> None:
            bar.update(task, advance=1, description=str(what))

        await run_grid(run_batch, set_cores, plan.cells, plan.repeat, checkpoint, ran)
        of_sizes = partial(ran, "rows of several sizes")
        await measure_row_sizes(run_batch, set_cores, plan.cells, sizes, checkpoint, of_sizes)


def _limited(pool: WorkerPool, cores: float) -> Cgroup:
    """Moves the pool's processes into a cgroup of their own."""
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
    """Removes the cgroups that killed measurements left behind."""
    for path in controller_root("cpu").glob(f"{_GROUP}*"):
        if not Path("/proc", path.name.removeprefix(_GROUP)).exists():
            Cgroup(path).remove()


async def run_on(pool: WorkerPool, batch: int, threads: int, size: int | None = None) -> BatchTime:
    """Runs one batch on a free lane. `size`: of its rows, where the model declares one; None: its reference."""
    from sponge_server.workers.examples import example_item

    lane = next(lane for lane in pool.lanes if not lane.busy)
    result = await lane.run([example_item(pool.models[0], 1, size)] * batch, threads)
    for outputs in result.outputs:
        if isinstance(outputs, SpongeError):
            raise outputs
    return BatchTime(result.batch_s, result.cpu_s)


def _digest(source: str) -> str:
    """A digest of the model's file; empty if the source has no file."""
    from sponge_server.models.source import parse

    parsed = parse(source)
    path: Path | None = None
    if parsed.scheme in ("file", "onnx", "openvino"):
        path = Path(parsed.target)
    elif parsed.scheme == "python":
        try:
            spec = find_spec(parsed.target.partition(":")[0])
        except (ImportError, ValueError):
            spec = None
        path = None if spec is None or spec.origin is None else Path(spec.origin)
    if path is None or not path.is_file():  # a missing file is refused when it is loaded
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _packages(source: str) -> tuple[str, ...]:
    """The packages that run the model."""
    from sponge_server.models.source import parse

    parsed = parse(source)
    own = {"onnx": ("onnxruntime",), "openvino": ("openvino",)}
    return ("torch", "torchvision", *own.get(parsed.options.get("runtime", parsed.scheme), ()))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
