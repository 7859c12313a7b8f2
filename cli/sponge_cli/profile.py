"""`sponge profile`: measures a model's batches on real lanes under a real CPU limit, fits them, writes the file.

Holds the options, the cgroup and the printing; what to run and how to fit is `sponge_profiles`' business.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

from sponge_core.errors import SpongeError

if TYPE_CHECKING:
    from rich.console import Console

    from sponge_profiles.measure import BatchTime
    from sponge_profiles.memory import MemoryModel
    from sponge_profiles.profile import MemoryUse, Profile
    from sponge_server.lanes.forked import ForkedLanes

__all__ = ["command"]

Percentile = Literal[50, 95, 99]

_BUSY = 0.05  # of the time; beyond it the upper percentiles are the neighbours'

EXAMPLE = """
\b
Examples:
  sponge profile torchvision://resnet18?weights=none --cores 1,2 --batches 1,2,4,8 -o resnet18.yaml
  sponge profile file:///models/m.pt2 --cores 1,2,4 --repeat 50 --percentile 99 -o m.yaml
  sponge profile digits:// --no-limit --json
"""


@dataclass(frozen=True, slots=True)
class _Plan:
    source: str
    name: str
    cores: list[int]
    batches: list[int]
    repeat: int
    percentile: Percentile
    limit: bool

    @property
    def lanes(self) -> int:
        """Side by side on one thread each, at the largest size; that needs the one-thread times to compare with."""
        return max(self.cores) if 1 in self.cores else 1


class _Numbers(click.ParamType[list[int]]):
    """`1,2,4`; gives them ascending, once each."""

    name = "numbers"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(re.fullmatch(r"[1-9]\d{0,3}", part) for part in parts):
            self.fail(f"{value!r}: write whole numbers from 1, as in 1,2,4", param, ctx)
        return sorted({int(part) for part in parts})


@click.command(epilog=EXAMPLE)
@click.argument("source")
@click.option(
    "--cores",
    type=_Numbers(),
    default="1,2",
    show_default=True,
    help="CPU limits to measure under; threads follow them.",
)
@click.option("--batches", type=_Numbers(), default="1,2,4,8", show_default=True, help="Batch sizes to measure.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write the profile to.")
@click.option("--name", help="The profile's name.  [default: from the source]")
@click.option("--repeat", type=click.IntRange(3, 10_000), default=20, show_default=True, help="Batches per point.")
@click.option(
    "--percentile", type=click.Choice(["50", "95", "99"]), default="95", show_default=True, help="What the fit is for."
)
@click.option("--no-limit", is_flag=True, help="Measure without a CPU limit, where none can be set.")
@click.option("--json", "as_json", is_flag=True, help="Print the profile as one JSON object.")
def command(
    source: str,
    cores: list[int],
    batches: list[int],
    output: Path | None,
    name: str | None,
    repeat: int,
    percentile: str,
    no_limit: bool,
    as_json: bool,
) -> None:
    """Measure how long batches of SOURCE take, by batch size and threads.

    Runs real lanes in a cgroup of their own, limited to as many cores as the batch has threads, and lanes side by side
    for how much they slow each other. Takes some tens of seconds; use a quiet machine.
    """
    import asyncio

    from rich.console import Console

    machine = len(os.sched_getaffinity(0))
    if max(cores) > machine:
        raise SpongeError(f"--cores {max(cores)}: this machine has {machine} CPUs; measure up to that, the fit goes on")
    if output is not None and not output.resolve().parent.is_dir():
        raise SpongeError(f"-o {output}: there is no directory {output.resolve().parent}; create it first")
    plan = _Plan(
        source=source,
        name=name or _name_of(source),
        cores=cores,
        batches=batches,
        repeat=repeat,
        percentile=cast("Percentile", int(percentile)),
        limit=not no_limit,
    )
    console = Console(stderr=as_json)
    profile = asyncio.run(_measure(plan, Console(stderr=True)))
    if output is not None:
        profile.save(output)
    _print_table(profile, console)
    if output is not None:
        console.print(f"written to {output}; use it with --profile {output}", highlight=False, soft_wrap=True)
    if as_json:
        click.echo(json.dumps(profile.model_dump(mode="json")))


async def _measure(plan: _Plan, console: Console) -> Profile:
    from sponge_server.lanes.forked import ForkedLanes
    from sponge_server.lanes.interface import ModelSpec

    async with AsyncExitStack() as stack:
        with console.status(f"loading {plan.source}"):
            pool = ForkedLanes([ModelSpec(plan.name, plan.source, max(plan.batches))])
            stack.push_async_callback(pool.close)
            await pool.start(plan.lanes)
        warning = pool.models[0].warning
        if warning:
            console.print(f"note: {warning}", highlight=False, soft_wrap=True)
        return await _measure_pool(plan, pool, console)


async def _measure_pool(plan: _Plan, pool: ForkedLanes, console: Console) -> Profile:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from sponge_profiles.cgroup import Cgroup, CgroupError
    from sponge_profiles.measure import grid_points, machine_name, measure_grid, measure_interference, waiting_share
    from sponge_profiles.profile import Profile
    from sponge_server.memory import measure_memory

    # First of all: what a lane keeps of a batch is seen on a lane that has run none.
    memory, _ = await measure_memory(pool, max(plan.cores), None)

    async def run_batch(batch: int, threads: int) -> BatchTime:
        return await _run(pool, batch, threads)

    group = None
    try:
        if plan.limit:
            group = Cgroup.create(f"sponge-profile-{os.getpid()}", max(plan.cores))
            for pid in pool.pids:
                group.add_pid(pid)
    except CgroupError as refused:
        if group is not None:
            group.remove()
        raise CgroupError(f"{refused}; --no-limit measures without a limit") from None
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            steps = bar.add_task("measuring", total=len(plan.cores) * len(plan.batches) * (plan.repeat + 1))
            samples: dict[tuple[int, int], list[BatchTime]] = {}
            for k in plan.cores:
                if group is not None:
                    group.set_quota_milli(k * 1000)
                grid = [(batch, k) for batch in plan.batches]
                measured = await measure_grid(run_batch, grid, plan.repeat, progress=lambda: bar.advance(steps))
                samples |= {size: list(times) for size, times in measured.items()}
            interference = 0.0
            if plan.lanes > 1:
                bar.update(steps, description=f"{plan.lanes} lanes side by side", total=None)
                interference = await measure_interference(run_batch, samples, plan.batches, plan.lanes, plan.repeat)
    finally:
        if group is not None:
            group.remove()
    waiting = waiting_share(samples)
    if waiting > _BUSY:
        console.print(
            f"note: batches spent {waiting:.0%} of their time waiting for a CPU, so these are times of a busy machine; "
            "close what else runs and measure again",
            highlight=False,
            soft_wrap=True,
        )
    how = "with no CPU limit" if group is None else "under a real CPU limit of as many cores as threads"
    profile = Profile.from_points(
        grid_points(samples, lambda time: time.wall_s),
        name=plan.name,
        model=plan.source,
        source=f"sponge profile {how}; {plan.repeat} batches a point, {pool.models[0].platform}",
        machine=machine_name(),
        percentile=plan.percentile,
        interference=interference,
    )
    return profile.model_copy(update={"memory": None if memory is None else _memory_use(memory)})


def _memory_use(memory: MemoryModel) -> MemoryUse:
    from sponge_profiles.profile import MemoryUse

    base, lane, item = (
        round(size / (1 << 20), 2) for size in (memory.base_bytes, memory.lane_bytes, memory.item_bytes)
    )
    return MemoryUse(base_mib=base, lane_mib=lane, item_mib=item)


async def _run(pool: ForkedLanes, batch: int, threads: int) -> BatchTime:
    from sponge_profiles.measure import BatchTime
    from sponge_server.lanes.examples import example_item

    lane = next(lane for lane in pool.lanes if not lane.busy)
    result = await lane.run([example_item(pool.models[0], 1)] * batch, threads)
    for outputs in result.outputs:
        if isinstance(outputs, SpongeError):
            raise outputs
    return BatchTime(result.batch_s, result.cpu_s)


def _print_table(profile: Profile, console: Console) -> None:
    from rich import box
    from rich.table import Table

    model = profile.latency_model()
    table = Table(box=box.SIMPLE, title=f"{profile.name} on {profile.machine}", title_justify="left")
    for head in ("batch", "threads", "p50 ms", "p95 ms", "p99 ms", f"fit of p{profile.percentile}", "off by"):
        table.add_column(head, justify="right")
    for point in profile.points:
        measured = point.at(profile.percentile) or 0.0
        fitted = model.latency(point.batch, point.threads) * 1e3
        shown = [f"{value:.2f}" if value else "-" for value in (point.p50_ms, point.p95_ms, point.p99_ms)]
        wasted = any(
            other.batch == point.batch
            and other.threads < point.threads
            and (other.at(profile.percentile) or measured) < measured
            for other in profile.points
        )
        off = "no gain" if wasted else f"{(measured / fitted - 1) * 100:+.0f} %"
        table.add_row(str(point.batch), str(point.threads), *shown, f"{fitted:.2f}", off)
    console.print(table)
    c = profile.coefficients_ms
    console.print(
        f"l(b,k) = {c.gamma:g}*b/k + {c.delta:g}*b + {c.epsilon:g}/k + {c.eta:g} ms;  R2 {profile.r2:g}, mean error "
        f"{profile.mape_percent:g} %, 90 % of points within {max(0.0, profile.error.p90) * 100:.0f} % above; "
        f"each further lane slows the others by {profile.interference * 100:.0f} %",
        highlight=False,
        soft_wrap=True,
    )
    if profile.memory is not None:
        console.print(
            f"memory: {profile.memory.base_mib:g} MiB for server and model, {profile.memory.lane_mib:g} MiB a lane, "
            f"{profile.memory.item_mib:g} MiB a row of its largest batch",
            highlight=False,
            soft_wrap=True,
        )


def _name_of(source: str) -> str:
    """`resnet18` of `torchvision://resnet18?weights=none`, `m` of `file:///models/m.pt2`, `digits` of `digits://`."""
    scheme, _, rest = source.partition("://")
    target = rest.partition("?")[0].strip("/").rpartition("/")[2].rpartition(":")[2]
    return target.removesuffix(".pt2") or scheme or "model"
