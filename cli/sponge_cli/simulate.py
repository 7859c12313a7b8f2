"""`sponge simulate`: scaling policies side by side on one schedule, in virtual time."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sponge_core.errors import SpongeError

if TYPE_CHECKING:
    from rich.table import Table

    from sponge_simulator.comparison import PolicySummary

__all__ = ["command"]

EPILOG = """
\b
Examples:
  sponge simulate --scenario paper --policies sponge,sponge-paper,fa2,static-8,static-16,clairvoyant --seed 1
  sponge simulate --scenario mixed --policies sponge,vpa,vpa@moldable-edf --seeds 5 --plot out/mixed.svg
  sponge simulate --list

\b
A policy of your own is one file: a class with `interval_s`, `dispatch`, `arrived` and `plan` in
simulator/sponge_simulator/scaling/, and a line in its registry.py. It decides from what it is told (an Observation)
and answers with a Size; a test in tests/core shows it a made-up situation. docs/research/policies.md tells what the
others do.
"""


@click.command(epilog=EPILOG)
@click.option("--scenario", "source", default="paper", show_default=True, metavar="NAME|FILE", help="The experiment.")
@click.option(
    "--policies",
    default="sponge,sponge-paper,clairvoyant",
    show_default=True,
    help="By name, with commas; static-C for C cores; POLICY@RULE for another dispatch rule; clairvoyant: the bound.",
)
@click.option(
    "--arrivals",
    metavar="poisson|burst|visits|twitter|azure-code|azure-conv|FILE",
    help="Instead of the scenario's own.",
)
@click.option("--bandwidth", metavar="none|4g|synthetic|FILE", help="Instead of the scenario's own.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Requests per second, instead of the scenario's.")
@click.option("--duration-s", type=click.FloatRange(0, min_open=True), help="Instead of the scenario's.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The first seed.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many seeds to pool.")
@click.option(
    "--service",
    type=click.Choice(["exact", "profile"]),
    default="exact",
    show_default=True,
    help="Batches take what the model predicts, or err as its profile did.",
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw cores against violations (.svg or .png).")
@click.option("--list", "listing", is_flag=True, help="List scenarios, policies and dispatch rules, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    source: str,
    policies: str,
    arrivals: str | None,
    bandwidth: str | None,
    rate: float | None,
    duration_s: float | None,
    seed: int,
    seeds: int,
    service: str,
    plot: Path | None,
    listing: bool,
    as_json: bool,
) -> None:
    """Compare scaling policies in virtual time.

    Every policy sees the same requests; the network's time counts against their deadlines. The same seed gives the same
    figures. The queue, the dispatch rules and the planner are the ones that serve.
    """
    from rich.console import Console
    from rich.progress import Progress

    from sponge_profiles.profile import load_profile
    from sponge_simulator.comparison import CLAIRVOYANT, check_policies, clairvoyant_summary, run_policy, summarize
    from sponge_simulator.scenario import load_scenario
    from sponge_workload.files import load_arrivals, load_bandwidth

    if listing:
        click.echo(_listing())
        return
    scenario = load_scenario(source)
    changes = {"arrivals": arrivals, "bandwidth": bandwidth, "rate_rps": rate, "duration_s": duration_s}
    scenario = scenario.model_copy(update={name: value for name, value in changes.items() if value is not None})
    names = [name.strip() for name in policies.split(",") if name.strip()]
    if not names:
        raise SpongeError("--policies is empty: name at least one, as in --policies sponge,static-8")
    profile = load_profile(scenario.profile)
    check_policies(names, scenario, profile)
    uplink = load_bandwidth(scenario.bandwidth, 1, os.environ)
    every_seed = range(seed, seed + seeds)
    schedules = {
        each: scenario.requests(
            load_arrivals(scenario.arrivals, scenario.peak_rps, scenario.duration_s, each, os.environ),
            uplink,
            each,
        )
        for each in every_seed
    }
    rows: list[PolicySummary] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("simulating", total=len(names) * seeds)
        for name in names:
            progress.update(task, description=name)
            if name == CLAIRVOYANT:
                rows.append(clairvoyant_summary(scenario, profile, list(schedules.values())))
                progress.advance(task, seeds)
                continue
            runs = []
            for each in every_seed:
                runs.append(run_policy(name, scenario, profile, schedules[each], each, service == "exact"))
                progress.advance(task)
            rows.append(summarize(runs))
    title = f"{scenario.name}: {scenario.arrivals} arrivals, {uplink.name if uplink else 'no network'}, {seeds} x " + (
        f"{scenario.duration_s:g} s from seed {seed}"
    )
    if plot is not None:
        from sponge_simulator.plots import save_pareto

        save_pareto(rows, title, plot)
    if as_json:
        head = {"scenario": scenario.name, "trace": uplink.name if uplink else None, "seed": seed, "seeds": seeds}
        click.echo(json.dumps(head | {"policies": [asdict(row) for row in rows]}))
        return
    Console(width=None if sys.stdout.isatty() else 120).print(_table(title, rows))


def _table(title: str, rows: list[PolicySummary]) -> Table:
    from rich.table import Table

    table = Table(title=title)
    classes = list(rows[0].violations_by_class)
    by_class = classes if len(classes) > 1 else []
    columns = ("sent", "missed", "miss %", *(f"{name} %" for name in by_class), "cores", "resizes", "p99 ms")
    table.add_column("policy", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.policy,
            f"{row.sent:,}",
            f"{row.sent - row.in_time:,}",
            f"{row.violations * 100:.3f}",
            *(f"{row.violations_by_class[name] * 100:.3f}" for name in by_class),
            f"{row.mean_cores:.2f}",
            f"{row.resizes:,}",
            "-" if row.p99_ms is None else f"{row.p99_ms:.0f}",
        )
    return table


def _listing() -> str:
    from sponge_core.dispatch.registry import POLICIES as DISPATCH
    from sponge_simulator.scaling.registry import POLICIES
    from sponge_simulator.scenario import load_scenario, scenario_names

    return "\n".join(
        [
            "scenarios:",
            *(f"  {name:<14} {load_scenario(name).about}" for name in scenario_names()),
            f"policies: {', '.join(POLICIES)}, static-C, clairvoyant",
            f"dispatch rules: {', '.join(DISPATCH)}",
        ]
    )
