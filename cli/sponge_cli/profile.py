"""`sponge profile`: measures a model's batches over a grid of cores and sizes, fits them, writes the file.

Holds the options and the order of things; what to run and how to fit is `sponge_profiles`' business.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

from sponge_core.errors import SpongeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from sponge_profiler.checkpoint import Checkpoint
    from sponge_profiler.local import MeasurementPlan
    from sponge_profiles.profile import Profile
    from sponge_profiles.validation import Form

__all__ = ["command"]

BUSY = 0.05  # of the time; beyond it the upper percentiles are the neighbours'

EXAMPLE = """
\b
Examples:
  sponge profile torchvision://resnet18?weights=none --cores 0.5,1,1.5,2 --batches 1,2,4,8 -o resnet18.yaml
  sponge profile file:///models/m.pt2 --cores 1,2,4 --repeat 50 --percentile 99 -o m.yaml --plot m.svg
  sponge profile digits:// --no-limit --json
  sponge profile torchvision://resnet18 --in-cluster --namespace models --cores 0.5,1,2,4 -o resnet18.yaml
"""


class _Numbers(click.ParamType[list[float]]):
    """`1,2,4`, with fractions where they make sense; gives them ascending, once each."""

    name = "numbers"

    def __init__(self, pattern: str, fix: str) -> None:
        self._pattern, self._fix = pattern, fix

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if isinstance(value, list):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(re.fullmatch(self._pattern, part) for part in parts):
            self.fail(f"{value!r}: {self._fix}", param, ctx)
        return sorted({float(part) for part in parts})


@click.command(epilog=EXAMPLE)
@click.argument("source")
@click.option(
    "--cores",
    type=_Numbers(r"\d{1,4}(\.\d{1,3})?", "write numbers of cores, as in 0.5,1,2"),
    default="1,2",
    show_default=True,
    help="CPU limits to measure under; threads follow them. Fractions too, beside at least one whole number.",
)
@click.option(
    "--batches",
    type=_Numbers(r"[1-9]\d{0,3}", "write whole numbers from 1, as in 1,2,4"),
    default="1,2,4,8",
    show_default=True,
    help="Batch sizes to measure.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write the profile to.")
@click.option("--name", help="The profile's name.  [default: from the source]")
@click.option("--repeat", type=click.IntRange(4, 10_000), default=20, show_default=True, help="Batches per cell.")
@click.option(
    "--percentile", type=click.Choice(["50", "95", "99"]), default="95", show_default=True, help="What the fit is for."
)
@click.option(
    "--form",
    type=click.Choice(["auto", "formula", "table"]),
    default="auto",
    show_default=True,
    help="What predicts; auto takes what predicts left-out cells better.",
)
@click.option(
    "--plot",
    "plots",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="Draw measured and fitted times (.svg or .png). Repeat for both.",
)
@click.option("--restart", is_flag=True, help="Measure all again, where an earlier run was interrupted.")
@click.option("--no-limit", is_flag=True, help="Measure without a CPU limit, where none can be set.")
@click.option(
    "--in-cluster",
    is_flag=True,
    help="Measure in a pod of the cluster that kubectl uses: on the node that will serve.",
)
@click.option("--namespace", default="default", show_default=True, help="Of that pod.")
@click.option("--image", help="Of that pod.  [default: sponge-server:VERSION]")
@click.option("--memory", default="2Gi", show_default=True, help="Of that pod, request and limit.")
@click.option(
    "--template",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Partial pod template (YAML) over that pod: volumes, node selector, tolerations, ...",
)
@click.option("--json", "as_json", is_flag=True, help="Print the profile as one JSON object.")
def command(
    source: str,
    cores: list[float],
    batches: list[float],
    output: Path | None,
    name: str | None,
    repeat: int,
    percentile: str,
    form: str,
    plots: tuple[Path, ...],
    restart: bool,
    no_limit: bool,
    in_cluster: bool,
    namespace: str,
    image: str | None,
    memory: str,
    template: Path | None,
    as_json: bool,
) -> None:
    """Measure how long batches of SOURCE take, by batch size and cores.

    Runs real lanes in a cgroup of their own, limited to as many cores as the cell has, and lanes side by side for how
    much they slow each other. Takes some tens of seconds; use a quiet machine. With -o, every measured cell is kept in
    OUTPUT.part until the profile is written: after an interruption the same command goes on there.

    With --in-cluster the lanes run in a pod, which is resized in place from one CPU limit to the next and deleted at
    the end. SOURCE is then loaded in that pod.
    """
    import asyncio

    import scipy.optimize  # noqa: F401 - the fit at the end needs it: where it is missing, say so before measuring
    from rich.console import Console

    from sponge_profiler.grid import grid_cells
    from sponge_profiler.local import MeasurementPlan, measure
    from sponge_profiler.plots import check_path, save_plot
    from sponge_profiler.report import print_report

    plan = MeasurementPlan(
        source=source,
        name=name or _name_of(source),
        cells=grid_cells(cores, [int(batch) for batch in batches]),
        repeat=repeat,
    )
    _refuse(plan, output, no_limit, in_cluster)
    for path in plots:
        check_path(path)
    console, messages = Console(stderr=as_json), Console(stderr=True)
    checkpoint: Checkpoint | None = None

    def open_checkpoint(about: Mapping[str, str]) -> Checkpoint:
        nonlocal checkpoint
        checkpoint = _checkpoint(plan, about, output, restart, messages)
        return checkpoint

    try:
        if in_cluster:
            from sponge_profiler.in_cluster import PodPlan, measure_in_cluster, read_template

            given = {} if template is None else read_template(template)
            asyncio.run(measure_in_cluster(plan, PodPlan(namespace, image, given, memory), open_checkpoint, messages))
        else:
            asyncio.run(measure(plan, not no_limit, open_checkpoint, messages))
    except (KeyboardInterrupt, asyncio.CancelledError):
        if checkpoint is not None and checkpoint.path is not None:
            _say(
                messages,
                f"{len(checkpoint)} visits to cells are kept in {checkpoint.path}; the same command goes on there",
            )
        raise KeyboardInterrupt from None
    finally:
        if checkpoint is not None:
            checkpoint.close()
    assert checkpoint is not None
    profile = _profile(plan, checkpoint, cast("Literal[50, 95, 99]", int(percentile)), cast("Form", form), messages)
    if output is not None:
        profile.save(output)
        checkpoint.finish()
    for path in plots:
        save_plot(profile, path)
    print_report(profile, console)
    if output is not None:
        _say(console, f"written to {output}; use it with --profile {output}")
    if as_json:
        click.echo(json.dumps(profile.model_dump(mode="json")))


def _refuse(plan: MeasurementPlan, output: Path | None, no_limit: bool, in_cluster: bool) -> None:
    """Raises SpongeError for what cannot be measured or written here, before anything is loaded."""
    machine, most = len(os.sched_getaffinity(0)), plan.most_cores
    if no_limit and in_cluster:
        raise SpongeError("--no-limit is for this machine alone: a pod is measured under its CPU limit; leave it out")
    if most > machine and not in_cluster:
        raise SpongeError(f"--cores {most:g}: this machine has {machine} CPUs; measure up to that, the fit goes on")
    if no_limit and not all(cell.whole for cell in plan.cells):
        raise SpongeError("--no-limit measures whole numbers of cores: leave the fractions out, or --no-limit")
    if output is not None and not output.resolve().parent.is_dir():
        raise SpongeError(f"-o {output}: there is no directory {output.resolve().parent}; create it first")


def _checkpoint(
    plan: MeasurementPlan, about: Mapping[str, str], output: Path | None, restart: bool, console: Console
) -> Checkpoint:
    from sponge_profiler.checkpoint import Checkpoint

    path = None if output is None else output.with_name(f"{output.name}.part")
    checkpoint = Checkpoint.open(path, about, restart)
    if len(checkpoint):
        _say(
            console, f"going on with {path}: {len(checkpoint)} visits to cells are there; --restart measures them again"
        )
    strangers = sorted(checkpoint.cells - set(plan.cells))
    if strangers:
        _say(console, f"note: the grid has changed; not in it, and left out: {'; '.join(map(str, strangers))}")
    return checkpoint


def _profile(
    plan: MeasurementPlan,
    checkpoint: Checkpoint,
    percentile: Literal[50, 95, 99],
    form: Form | Literal["auto"],
    console: Console,
) -> Profile:
    """Of the cells that the checkpoint holds; those that contradict each other are dropped from it."""
    from sponge_profiler.grid import contradicting, profile_of, waiting_share
    from sponge_profiles.profile import MemoryUse

    measured = checkpoint.measured(plan.cells)
    bad = contradicting(measured, percentile)
    if bad:
        checkpoint.forget(bad)
        raise SpongeError(
            f"a larger batch was faster than a smaller one: {'; '.join(map(str, bad))}; close what else runs, and run "
            "the same command again: it measures these cells anew"
        )
    waiting = waiting_share(measured)
    if waiting > BUSY:
        _say(
            console,
            f"note: batches spent {waiting:.0%} of their time waiting for a CPU, so these are times of a busy machine; "
            "close what else runs and measure again",
        )
    memory = checkpoint.notes.get("memory")
    return profile_of(
        measured,
        name=plan.name,
        model=plan.source,
        source=checkpoint.notes["how"],
        machine=checkpoint.notes["machine"],
        percentile=percentile,
        form=form,
        memory=None if memory is None else MemoryUse(**memory),
    )


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _name_of(source: str) -> str:
    """`resnet18` of `torchvision://resnet18?weights=none`, `m` of `file:///models/m.pt2`, `digits` of `digits://`."""
    scheme, _, rest = source.partition("://")
    target = rest.partition("?")[0].strip("/").rpartition("/")[2].rpartition(":")[2]
    return target.removesuffix(".pt2") or scheme or "model"
