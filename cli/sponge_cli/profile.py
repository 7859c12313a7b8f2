"""`sponge profile`: measures a model's batches over a grid of cores and sizes, fits them, writes the file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

if TYPE_CHECKING:
    from sponge_profiler.in_cluster import PodPlan
    from sponge_profiles.validation import Form

__all__ = ["command"]

EXAMPLE = """
\b
Examples:
  sponge profile torchvision://resnet18?weights=none --cores 0.5,1,1.5,2 --batches 1,2,4,8 -o resnet18.yaml
  sponge profile file:///models/m.pt2 --cores 1,2,4 --repeat 50 --percentile 99 -o m.yaml --plot m.svg
  sponge profile digits:// --no-limit --json
  sponge profile onnx:///models/m.onnx --runtimes all --cores 2 --batches 1,4,8
  sponge profile torchvision://resnet18 --in-cluster --namespace models --cores 0.5,1,2,4 -o resnet18.yaml
"""


class _Runtimes(click.ParamType[tuple[str, ...]]):
    """`all`, or names such as `onnx,openvino`."""

    name = "runtimes"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        from sponge_server.models.source import RUNTIMES

        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        if names == ("all",):
            return RUNTIMES
        unknown = [name for name in names if name not in RUNTIMES]
        if unknown:
            self.fail(f"unknown runtime '{unknown[0]}'; write all, or some of {', '.join(RUNTIMES)}", param, ctx)
        return names


class _Numbers(click.ParamType[list[float]]):
    """Numbers such as `1,2,4`, as an ascending list without duplicates; `pattern` is that of one number."""

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
    help="CPU limits to measure under; batches use as many threads. Fractions need at least one whole number.",
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
    "--percentile",
    type=click.Choice(["50", "95", "99"]),
    default="95",
    show_default=True,
    help="The percentile to fit.",
)
@click.option(
    "--form",
    type=click.Choice(["auto", "formula", "table"]),
    default="auto",
    show_default=True,
    help="What predicts the times; auto takes the form that predicts left-out cells better.",
)
@click.option(
    "--plot",
    "plots",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="Draw measured and fitted times (.svg or .png). Repeat for both.",
)
@click.option(
    "--runtimes",
    type=_Runtimes(),
    help="Compare runtimes in a table instead: all, or some of torch,onnx,openvino. Also in bf16 and int8.",
)
@click.option("--restart", is_flag=True, help="Measure all cells again after an interruption.")
@click.option("--no-limit", is_flag=True, help="Measure without a CPU limit, for machines where none can be set.")
@click.option(
    "--in-cluster",
    is_flag=True,
    help="Measure in a pod of the cluster that kubectl uses, on a node that will serve.",
)
@click.option("--namespace", default="default", show_default=True, help="Namespace of that pod.")
@click.option("--image", help="Image of that pod.  [default: sponge-server:VERSION]")
@click.option("--memory", default="2Gi", show_default=True, help="Memory request and limit of that pod.")
@click.option(
    "--template",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Partial pod template (YAML), merged over that pod: volumes, node selector, tolerations, ...",
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
    form: Form | Literal["auto"],
    plots: tuple[Path, ...],
    runtimes: tuple[str, ...] | None,
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

    Runs real lanes in a cgroup of their own under each CPU limit, and lanes side by side to see how much they slow each
    other. Takes some tens of seconds; use a quiet machine. With -o, OUTPUT.part keeps every measured cell until the
    profile is written: after an interruption the same command continues there.

    With --in-cluster the lanes run in a pod that is resized in place from one CPU limit to the next, and deleted at the
    end. The pod loads SOURCE.

    With --runtimes it compares, on this machine and without a CPU limit, and writes no profile.
    """
    from rich.console import Console

    if runtimes is not None:
        if output is not None or plots or in_cluster:
            raise click.UsageError("--runtimes only compares: leave -o, --plot and --in-cluster out")
        _compare(source, runtimes, int(max(cores)), [int(batch) for batch in batches], repeat, as_json)
        return

    from sponge_profiler.grid import grid_cells
    from sponge_profiler.local import MeasurementPlan
    from sponge_profiler.report import print_report
    from sponge_profiler.session import ProfileRequest, name_of, profile_model

    pod: PodPlan | None = None
    if in_cluster:
        from sponge_operator.resources.template import read_template
        from sponge_profiler.in_cluster import PodPlan

        partial = {} if template is None else read_template(template, "--template")
        pod = PodPlan(namespace, image, partial, memory)
    request = ProfileRequest(
        plan=MeasurementPlan(
            source=source,
            name=name or name_of(source),
            cells=grid_cells(cores, [int(batch) for batch in batches]),
            repeat=repeat,
        ),
        pod=pod,
        limited=not no_limit,
        percentile=cast("Literal[50, 95, 99]", int(percentile)),
        form=form,
        output=output,
        restart=restart,
        plots=plots,
    )
    profile = profile_model(request, Console(stderr=True))
    console = Console(stderr=as_json)
    print_report(profile, console)
    if output is not None:
        console.print(f"written to {output}; use it with --profile {output}", highlight=False, soft_wrap=True)
    if as_json:
        click.echo(json.dumps(profile.model_dump(mode="json")))


def _compare(
    source: str, runtimes: tuple[str, ...], cores: int, batches: list[int], repeat: int, as_json: bool
) -> None:
    from rich.console import Console

    from sponge_profiler.comparison import compare_runtimes, comparison_table, variants_of

    found = compare_runtimes(source, variants_of(runtimes), max(1, cores), batches, repeat, Console(stderr=True))
    if as_json:
        click.echo(json.dumps([one.as_dict() for one in found]))
        return
    console = Console()
    console.print(comparison_table(found, source, max(1, cores)))
    for one in found:
        if one.why_not is not None:
            console.print(f"{one.runtime} in {one.dtype}: {one.why_not}", highlight=False, soft_wrap=True, markup=False)
