"""`sponge plan`: asks one planner for one decision. Reads a profile; runs nothing."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from sponge_cli.common_options import Number
from sponge_profiles.profile import load_profile
from sponge_simulator.planning import PLANNERS, Load

__all__ = ["command"]


@click.command(
    epilog="Example: sponge plan --planner paper --profile yolov5s-paper --rate 20 --slo-ms 1000 --network-ms 55 --json"
)
@click.option("--planner", type=click.Choice(list(PLANNERS)), default="projected", show_default=True)
@click.option(
    "--profile", required=True, metavar="NAME|FILE", help="A shipped profile, or a file that `sponge profile` wrote."
)
@click.option("--rate", type=Number(0, min_open=True), required=True, help="Requests per second.")
@click.option("--slo-ms", type=Number(0, min_open=True), default=1000.0, show_default=True)
@click.option("--network-ms", type=Number(0), default=0.0, show_default=True, help="The network's share of the SLO.")
@click.option("--max-cores", type=click.IntRange(1, 256), default=16, show_default=True)
@click.option("--max-batch", type=click.IntRange(1, 1024), default=8, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    planner: str,
    profile: str,
    rate: float,
    slo_ms: float,
    network_ms: float,
    max_cores: int,
    max_batch: int,
    as_json: bool,
) -> None:
    """Print the cores and the batch size that PLANNER would choose.

    `projected` replays the dispatch rule on a steady load; its batch is the largest one in that replay. `paper` solves
    the integer program of the Sponge paper. The exit code is 0 even if no size is feasible.
    """
    load = Load(rate, slo_ms, network_ms, max_cores, max_batch)
    plan = PLANNERS[planner](load_profile(profile).latency_model(), load)
    if as_json:
        click.echo(json.dumps(asdict(plan)))
    elif plan.feasible:
        click.echo(f"{plan.cores} cores, batch {plan.batch} ({plan.predicted_ms:.1f} ms a batch)")
    else:
        click.echo(f"infeasible: no size up to {max_cores} cores with batches up to {max_batch} keeps {slo_ms:g} ms")
