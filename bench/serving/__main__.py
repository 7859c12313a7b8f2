"""`python -m bench.serving`: the steps of the serving benchmark as commands."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bench.serving.campaign import Plan
from bench.serving.ledger import Ledger
from bench.serving.live_cores import CORES_MIX
from bench.serving.measure import Timing
from bench.serving.steps import Budget, OutOfTimeError, Steps
from bench.serving.systems import SYSTEMS
from bench.serving.workloads import DEFAULT, RUNTIMES, WORKLOADS, Served
from sponge_core.errors import SpongeError

OUT = Path("out/bench/serving")
UNFINISHED = 75
"""Exit code when the time budget ends before the work (EX_TEMPFAIL). The same command continues the work."""

EPILOG = """
\b
A whole campaign, in pieces of at most four minutes (`all` does every step that is left):
  while python -m bench.serving all --campaign monday --budget-s 230; [ $? = 75 ]; do :; done
\b
Texts of many lengths, in ONNX Runtime everywhere:
  python -m bench.serving all --campaign texts --workload bert --runtime onnx
"""


class _List(click.ParamType[tuple[Any, ...]]):
    """Comma-separated values of one type."""

    name = "list"

    def __init__(self, kind: Callable[[str], Any]) -> None:
        self._kind = kind

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._kind(word.strip()) for word in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: give values separated by commas", param, ctx)


_PLAN_OPTIONS = (
    click.option(
        "--campaign",
        default="default",
        show_default=True,
        help="Name of the campaign. Runs with the same name belong together.",
    ),
    click.option("--workload", type=click.Choice([*WORKLOADS]), default=DEFAULT.workload.name, show_default=True),
    click.option(
        "--runtime",
        type=click.Choice(RUNTIMES),
        default=DEFAULT.runtime,
        show_default=True,
        help="What computes inside of every system.",
    ),
    click.option("--cores", type=float, help="CPU limit of every system, helpers included.  [default: the workload's]"),
    click.option("--systems", type=_List(str), help="Some of the workload's.  [default: all]"),
    click.option("--mixes", type=_List(str), help="Some of the workload's.  [default: all]"),
    click.option("--loads", type=_List(float), help="Shares of the capacity.  [default: the workload's]"),
    click.option("--seeds", type=_List(int), default=(1, 2, 3), help="Schedules at each load.  [default: 1,2,3]"),
    click.option("--duration-s", default=11.5, show_default=True, help="Duration of sending, with the warm-up."),
    click.option("--warmup-s", default=1.5, show_default=True, help="Sent, not counted."),
    click.option(
        "--hang-up-s", default=1.0, show_default=True, help="A client disconnects this long after its deadline."
    ),
    click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=OUT, show_default=True),
    click.option(
        "--budget-s",
        type=click.FloatRange(0, min_open=True),
        help="Start no step that would exceed this time. Exits with 75 when work is left.",
    ),
)


def _campaign_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of a plan to a command, passes it the `steps`, and prints their result."""

    @functools.wraps(command)
    def with_plan(
        campaign: str,
        workload: str,
        runtime: str,
        cores: float | None,
        systems: tuple[str, ...] | None,
        mixes: tuple[str, ...] | None,
        loads: tuple[float, ...] | None,
        seeds: tuple[int, ...],
        duration_s: float,
        warmup_s: float,
        hang_up_s: float,
        out: Path,
        budget_s: float | None,
        **others: Any,
    ) -> None:
        served = Served(WORKLOADS[workload], runtime)
        plan = Plan(
            campaign,
            cores or served.workload.cores,
            Timing(duration_s, warmup_s, hang_up_s),
            _some("--systems", systems, tuple(SYSTEMS[workload])),
            _some("--mixes", mixes, served.workload.mixes),
            loads or served.workload.loads,
            seeds,
            served,
        )
        ledger = Ledger(out / "runs.jsonl")
        steps = Steps(ledger, plan, out, Budget(budget_s), click.echo)
        try:
            command(steps=steps, ledger=ledger, plan=plan, out=out, **others)
        except OutOfTimeError:
            click.echo("the time budget is used up; run the same command again to continue", err=True)
            sys.exit(UNFINISHED)
        sys.exit(1 if steps.failed else 0)

    return functools.reduce(lambda made, option: option(made), reversed(_PLAN_OPTIONS), with_plan)


def _some(option: str, wanted: tuple[str, ...] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """What was asked for, or all. Raises click.BadParameter for what the workload does not have."""
    for name in wanted or ():
        if name not in known:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(known)}", param_hint=option)
    return wanted or known


candidates_option = click.option(
    "--candidates", default=4, show_default=True, help="Configurations to try of each system."
)


@click.group(epilog=EPILOG)
def main() -> None:
    """Sponge's server and its peers, side by side on the same CPU limit.

    Every run is kept in out/bench/serving/runs.jsonl with its parameters. An interrupted command continues where it
    stopped and does not repeat finished runs.
    """


@main.command()
@_campaign_options
def setup(steps: Steps, plan: Plan, **_: Any) -> None:
    """Make the model's files, the reference answers and each peer's environment. Report failures with their causes."""
    _make_model(plan.served)
    steps.setup()


@main.command()
@_campaign_options
@click.option("--seconds", default=4.0, show_default=True, help="Of each shape.")
def capacity(steps: Steps, seconds: float, **_: Any) -> None:
    """Measure the bare loop in the same cgroup. Its throughput defines the loads of a campaign."""
    steps.capacity(seconds)


@main.command()
@_campaign_options
@candidates_option
def tune(steps: Steps, candidates: int, **_: Any) -> None:
    """Try configurations of every peer at each load, in runs of half the length."""
    steps.tune(candidates)


@main.command()
@_campaign_options
@click.option("--defaults", is_flag=True, help="Run every system with its defaults instead of its tuned configuration.")
def goodput(steps: Steps, defaults: bool, **_: Any) -> None:
    """Measure goodput: Poisson arrivals with deadlines at each load, mix and seed."""
    steps.goodput(defaults)


@main.command()
@_campaign_options
def overhead(steps: Steps, **_: Any) -> None:
    """Measure a server's overhead over the bare loop: single requests, and saturation."""
    steps.overhead()


@main.command()
@click.argument("checkout", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rounds", type=click.IntRange(2), default=10, show_default=True, help="Each takes half a minute.")
@click.option("--cores", default=1.5, show_default=True, help="CPU limit of each of the two servers.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=OUT, show_default=True)
def against(checkout: Path, rounds: int, cores: float, out: Path) -> None:
    """Compare this checkout's server with that of another CHECKOUT, in turns: single requests, and saturation.

    CHECKOUT needs an environment of its own; run make setup there.
    """
    from bench.serving.against import compare

    _make_model(DEFAULT)
    for comparison in compare(checkout, rounds, cores, out / "logs"):
        click.echo(comparison)


@main.command()
@_campaign_options
def cores(steps: Steps, plan: Plan, **_: Any) -> None:
    """Find the fewest fixed cores that serve a varying load in time, beside Sponge resized live."""
    if CORES_MIX not in plan.mixes:
        raise click.UsageError(f"its load is the mix {CORES_MIX}: choose a workload and mixes that have it")
    steps.cores()


@main.command()
@_campaign_options
def report(ledger: Ledger, plan: Plan, out: Path, **_: Any) -> None:
    """Write tables (Markdown), plots (SVG, PNG) and one page of HTML."""
    _write_report(ledger, plan, out)


@main.command("all")
@_campaign_options
@candidates_option
def everything(steps: Steps, ledger: Ledger, plan: Plan, out: Path, candidates: int) -> None:
    """Run every remaining step from setup to report."""
    _make_model(plan.served)
    steps.setup()
    steps.capacity()
    steps.tune(candidates)
    steps.goodput(defaults=False)
    steps.overhead()
    if CORES_MIX in plan.mixes:
        steps.cores()
    _write_report(ledger, plan, out)


def _make_model(served: Served) -> None:
    subprocess.run((sys.executable, "-m", "bench.serving.model", served.workload.name, served.runtime), check=True)


def _write_report(ledger: Ledger, plan: Plan, out: Path) -> None:
    from bench.serving.report import write_report

    click.echo(write_report(ledger, plan, out / plan.name))


def _run() -> None:
    # A running server must end, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        main(standalone_mode=True)
    except SpongeError as error:
        sys.exit(f"bench.serving: {error}")


if __name__ == "__main__":
    _run()
