"""`sponge simulate`: scaling policies side by side on one schedule, in virtual time."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from sponge_cli.common_options import Number

__all__ = ["command"]

EPILOG = """
\b
Examples:
  sponge simulate --scenario paper --policies sponge,sponge-paper,fa2,static-8,static-16,clairvoyant --seed 1
  sponge simulate --scenario mixed --policies sponge,vpa,vpa@moldable-edf --seeds 5 --plot out/mixed.svg
  sponge simulate --list

\b
A policy of your own is one file: a class with `interval_s`, `dispatch`, `arrived` and `plan` in
simulator/sponge_simulator/scaling/, and a line in its registry.py. It decides from an Observation
and answers with a Size; a test in tests/simulator shows it a made-up situation. docs/research/policies.md explains
the others.
"""


@click.command(epilog=EPILOG)
@click.option("--scenario", default="paper", show_default=True, metavar="NAME|FILE", help="The experiment.")
@click.option(
    "--policies",
    default="sponge,sponge-paper,clairvoyant",
    show_default=True,
    help="Names, with commas; static-C: C cores; POLICY@RULE: another dispatch rule; clairvoyant: the bound.",
)
@click.option(
    "--arrivals",
    metavar="poisson|burst|visits|twitter|azure-code|azure-conv|FILE",
    help="Replaces the scenario's own.",
)
@click.option("--bandwidth", metavar="none|4g|synthetic|FILE", help="Replaces the scenario's own.")
@click.option("--rate", type=Number(0, min_open=True), help="Requests per second; replaces the scenario's.")
@click.option("--duration-s", type=Number(0, min_open=True), help="Replaces the scenario's.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The first seed.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, help="Number of seeds to combine.")
@click.option(
    "--service",
    type=click.Choice(["exact", "profile"]),
    default="exact",
    show_default=True,
    help="Batch times: exactly as the model predicts, or with the errors of its profile.",
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw cores against violations (.svg or .png).")
@click.option("--list", "list_all", is_flag=True, help="List scenarios, policies and dispatch rules, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    scenario: str,
    policies: str,
    arrivals: str | None,
    bandwidth: str | None,
    rate: float | None,
    duration_s: float | None,
    seed: int,
    seeds: int,
    service: str,
    plot: Path | None,
    list_all: bool,
    as_json: bool,
) -> None:
    """Compare scaling policies in virtual time.

    Every policy gets the same requests, and the time on the network counts against their deadlines. The same seed gives
    the same figures. The queue, the dispatch rules and the planner are those of the server.
    """
    from rich.console import Console
    from rich.progress import Progress

    from sponge_simulator.experiment import Experiment, listing, run_experiment
    from sponge_simulator.plots import save_pareto
    from sponge_simulator.report import comparison_table

    if list_all:
        click.echo(listing())
        return
    experiment = Experiment(
        scenario=scenario,
        policies=[name.strip() for name in policies.split(",") if name.strip()],
        seed=seed,
        seeds=seeds,
        exact=service == "exact",
        changes={"arrivals": arrivals, "bandwidth": bandwidth, "rate_rps": rate, "duration_s": duration_s},
    )
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("simulating", total=len(experiment.policies) * seeds)
        result = run_experiment(
            experiment, os.environ, lambda name, done: progress.update(task, description=name, advance=done)
        )
    if plot is not None:
        save_pareto(result.policies, result.title, plot)
    if as_json:
        click.echo(json.dumps(result.as_dict()))
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(comparison_table(result))
