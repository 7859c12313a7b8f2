"""`sponge tune`: the cheapest configuration that keeps an SLO, from measured profiles and the simulator."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from sponge_cli.common_options import Number
from sponge_profiles.profile import load_profile
from sponge_simulator.tuning import Goal, Tuned, tune

__all__ = ["command"]

EPILOG = """
\b
Example: profile each runtime, then choose.
  sponge profile "digits://" -o torch.yaml --name torch
  sponge profile "digits://?runtime=onnx" -o onnx.yaml --name onnx
  sponge tune torch.yaml onnx.yaml --rate 200 --slo-ms 50 --max-cores 4
"""


@click.command(epilog=EPILOG)
@click.argument("profiles", nargs=-1, required=True, metavar="PROFILE...")
@click.option("--rate", type=Number(0, min_open=True), required=True, help="Requests per second, Poisson.")
@click.option("--slo-ms", type=Number(0, min_open=True), required=True, help="The SLO, without the network.")
@click.option("--target", type=Number(0, 100), default=99.0, show_default=True, help="Percent of requests in time.")
@click.option("--max-cores", type=click.IntRange(1, 256), default=8, show_default=True)
@click.option("--duration-s", type=Number(1), default=120.0, show_default=True, help="Of each schedule.")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Number of schedules.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, the cheapest first.")
def command(
    profiles: tuple[str, ...],
    rate: float,
    slo_ms: float,
    target: float,
    max_cores: int,
    duration_s: float,
    seeds: int,
    as_json: bool,
) -> None:
    """Print the cheapest configuration that keeps an SLO at a rate, among PROFILEs of one model.

    Each profile is a shipped one or a file of `sponge profile`, of one runtime and number format. The cost is the mean
    of the cores that the service holds. The exit code is 1 if no profile keeps the SLO.
    """
    from rich.console import Console

    goal = Goal(rate, slo_ms / 1000, target / 100, max_cores, duration_s, seeds)
    with Console(stderr=True).status("simulating") as status:
        found = tune([load_profile(name) for name in profiles], goal, lambda name: status.update(f"simulating {name}"))
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found]))
    else:
        Console().print(_table(found))
        click.echo(_advice(found[0], goal))
    if found[0].max_cores is None:
        raise SystemExit(1)


def _table(found: list[Tuned]) -> object:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for head in ("profile", "runtime", "dtype"):
        table.add_column(head)
    for head in ("cpu min", "max", "step", "batch", "in time", "mean cores"):
        table.add_column(head, justify="right")
    for one in found:
        cells = (one.min_cores, one.max_cores, one.step)
        sizes = ("not enough" if size is None else f"{size:g}" for size in cells)
        table.add_row(
            one.profile, one.runtime, one.dtype, *sizes, str(one.batch), f"{one.in_time:.2%}", f"{one.mean_cores:.2f}"
        )
    return table


def _advice(best: Tuned, goal: Goal) -> str:
    if best.max_cores is None:
        return (
            f"no profile keeps {goal.slo_s * 1000:g} ms for {goal.target:.1%} at {goal.rate_rps:g}/s on "
            f"{goal.max_cores} cores: allow more --max-cores, a larger --slo-ms, or a faster runtime"
        )
    return (
        f"spec:\n  model: {{source: {json.dumps(best.source)}}}\n"
        f'  cpu: {{min: "{best.min_cores:g}", max: "{best.max_cores:g}", step: "{best.step:g}"}}\n'
        f"  batch: {{max: {best.batch}}}"
    )
