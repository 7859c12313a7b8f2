"""`python -m bench.serving`: the steps of the serving benchmark as commands. Reads options, shows progress, prints."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from bench.serving import campaign
from bench.serving.campaign import LOADS, Plan, Visit
from bench.serving.environments import set_up
from bench.serving.ledger import Ledger
from bench.serving.measure import Timing
from bench.serving.schedule import MIXES
from bench.serving.systems import SYSTEMS
from sponge_core.errors import SpongeError

OUT = Path("out/bench/serving")
UNFINISHED = 75
"""Exit code when the time budget ended before the work: run the same command again to go on (EX_TEMPFAIL)."""

EPILOG = """
\b
A whole campaign, in pieces of at most four minutes:
  python -m bench.serving setup
  python -m bench.serving capacity --campaign monday
  while python -m bench.serving tune --campaign monday --budget-s 230; [ $? = 75 ]; do :; done
  while python -m bench.serving goodput --campaign monday --budget-s 230; [ $? = 75 ]; do :; done
  python -m bench.serving report --campaign monday
"""

console = Console(stderr=True)


class _List(click.ParamType[tuple[Any, ...]]):
    """Comma-separated values of one type, each one of the choices where there are any."""

    name = "list"

    def __init__(self, kind: Callable[[str], Any], choices: Sequence[Any] | None = None) -> None:
        self._kind, self._choices = kind, choices

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(self._kind(word.strip()) for word in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: give values with commas between them", param, ctx)
        for word in found:
            if self._choices is not None and word not in self._choices:
                self.fail(f"{word!r} is none of {', '.join(map(str, self._choices))}", param, ctx)
        return found


def _campaign_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that make up a plan, and the ledger; gives the command `ledger`, `plan` and `out`."""

    @click.option("--campaign", default="default", show_default=True, help="Runs of one name are one campaign.")
    @click.option("--cores", default=1.5, show_default=True, help="CPU limit of every system, helpers included.")
    @click.option("--systems", type=_List(str, tuple(SYSTEMS)), default=tuple(SYSTEMS), help="Some of all.")
    @click.option("--mixes", type=_List(str, tuple(MIXES)), default=tuple(MIXES), help="classes, 4g or both.")
    @click.option("--loads", type=_List(float), default=LOADS, help="Of the capacity.  [default: 0.5,0.7,0.9,1.3,2.0]")
    @click.option("--seeds", type=_List(int), default=(1, 2, 3), help="Schedules at each load.  [default: 1,2,3]")
    @click.option("--duration-s", default=11.5, show_default=True, help="Of the sending, the warm-up included.")
    @click.option("--warmup-s", default=1.5, show_default=True, help="Sent, not counted.")
    @click.option("--hang-up-s", default=1.0, show_default=True, help="A client hangs up so long after its deadline.")
    @click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=OUT, show_default=True)
    @functools.wraps(command)
    def with_plan(
        campaign: str,
        cores: float,
        systems: tuple[str, ...],
        mixes: tuple[str, ...],
        loads: tuple[float, ...],
        seeds: tuple[int, ...],
        duration_s: float,
        warmup_s: float,
        hang_up_s: float,
        out: Path,
        **others: Any,
    ) -> None:
        plan = Plan(campaign, cores, Timing(duration_s, warmup_s, hang_up_s), systems, mixes, loads, seeds)
        command(ledger=Ledger(out / "runs.jsonl"), plan=plan, out=out, **others)

    return with_plan


budget_option = click.option(
    "--budget-s", type=float, help="Begin nothing that would not end within this time; exits with 75 when work is left."
)


@click.group(epilog=EPILOG)
def main() -> None:
    """Sponge's server and its peers, side by side on the same CPU limit.

    Every run is kept in out/bench/serving/runs.jsonl with all of its parameters: a command that was interrupted goes on
    where it stopped, and what was measured is not measured again.
    """


@main.command()
@click.option("--systems", type=_List(str, tuple(SYSTEMS)), default=tuple(SYSTEMS), help="Some of all.")
def setup(systems: tuple[str, ...]) -> None:
    """Make the weights, the reference answers and each peer's environment; say what failed, and why."""
    from bench.serving import model

    model.main()
    failed = 0
    for name in systems:
        began = time.monotonic()
        try:
            set_up(SYSTEMS[name])
        except SpongeError as error:
            failed += 1
            click.echo(f"{name:<10} failed: {error}")
        else:
            click.echo(f"{name:<10} {SYSTEMS[name].version:<10} ready ({time.monotonic() - began:.0f} s)")
    sys.exit(1 if failed else 0)


@main.command()
@_campaign_options
@click.option("--seconds", default=4.0, show_default=True, help="Of each shape.")
def capacity(ledger: Ledger, plan: Plan, seconds: float, **_: Path) -> None:
    """Measure the bare torch loop in the same cgroup: the yardstick of a campaign's loads."""
    for figure in campaign.measure_capacity(ledger, plan, seconds):
        click.echo(
            f"{figure['processes']} x {figure['threads']} threads, batch {figure['batch']:>2}: "
            f"{figure['images_per_s']:6.1f} images/s, a batch {figure['batch_p50_ms']:6.1f} ms"
        )
    click.echo(f"capacity: {campaign.capacity_of(ledger, plan)['images_per_s']:.1f} images/s")


@main.command()
@_campaign_options
@budget_option
@click.option("--candidates", default=4, show_default=True, help="Configurations to try of each system.")
def tune(ledger: Ledger, plan: Plan, out: Path, budget_s: float | None, candidates: int) -> None:
    """Try configurations of every peer at each load, in runs of half the length."""
    timing = Timing(plan.timing.duration_s / 2 + plan.timing.warmup_s / 2, plan.timing.warmup_s, plan.timing.hang_up_s)
    short = Plan(plan.name, plan.cores, timing, plan.systems, plan.mixes, plan.loads, plan.seeds)
    _perform_all(ledger, short, campaign.tune_visits(ledger, short, candidates), out, budget_s)


@main.command()
@_campaign_options
@budget_option
@click.option("--defaults", is_flag=True, help="Every system as it comes, instead of as tuned.")
def goodput(ledger: Ledger, plan: Plan, out: Path, budget_s: float | None, defaults: bool) -> None:
    """Measure goodput: Poisson arrivals with deadlines at each load, mix and seed."""
    _perform_all(ledger, plan, campaign.goodput_visits(ledger, plan, defaults), out, budget_s)


@main.command()
@_campaign_options
def overhead(ledger: Ledger, plan: Plan, out: Path) -> None:
    """Measure what a server adds: latency of one request at a time, and saturation, beside the bare torch loop."""
    from bench.serving.overhead import measure_overhead

    for name, result in measure_overhead(ledger, plan, out / "logs"):
        click.echo(
            f"{name:<9} one at a time {result['p50_ms']:.1f} ms (p99 {result['p99_ms']:.1f}), bare "
            f"{result['bare_p50_ms']:.1f}; saturated {result['saturated_rps']:.1f}/s, bare {result['bare_rps']:.1f}"
        )


@main.command()
@_campaign_options
def cores(ledger: Ledger, plan: Plan, out: Path) -> None:
    """Find the fewest fixed cores that keep a varying load in time, beside Sponge resized live."""
    from bench.serving.live_cores import measure_cores

    for name, fixed, result in measure_cores(ledger, plan, out / "logs"):
        size = "resized live" if fixed is None else f"fixed at {fixed:g}"
        click.echo(
            f"{name:<9} {size}: {result['attainment']:.2%} in time on {result['mean_cores']:.2f} cores, "
            f"{result['resizes']} resizes"
        )


@main.command()
@_campaign_options
def report(ledger: Ledger, plan: Plan, out: Path) -> None:
    """Write tables (Markdown), plots (SVG, PNG) and one page of HTML."""
    from bench.serving.report import write_report

    click.echo(write_report(ledger, plan, out / plan.name))


def _perform_all(ledger: Ledger, plan: Plan, visits: list[Visit], out: Path, budget_s: float | None) -> None:
    """All visits within the budget, with a bar; exits with 1 when a server failed, 75 when work is left."""
    failed: dict[str, str] = {}
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("runs", total=sum(len(visit.runs) for visit in visits))
        for visit in visits:
            fitting = visit if budget_s is None else visit.within(budget_s - (time.monotonic() - began))
            progress.update(task, description=f"{visit.kind} {visit.system}")
            try:
                for params, result in campaign.perform(ledger, plan, fitting, out / "logs"):
                    progress.advance(task)
                    click.echo(_line(params, result))
            except SpongeError as error:
                failed[visit.system] = str(error)
                progress.console.print(f"{visit.system}: {error}", markup=False)
                continue
            if len(fitting.runs) < len(visit.runs):
                _report_failures(failed)
                sys.exit(UNFINISHED)
    _report_failures(failed)
    sys.exit(1 if failed else 0)


def _line(params: Any, result: Any) -> str:
    classes = "  ".join(
        f"{name} {of['in_time'] / of['sent']:.0%}" for name, of in result["classes"].items() if of["sent"]
    )
    return (
        f"{params['system']:<9} {params['mix']:<7} {params['load']:.1f}x seed {params['seed']}: "
        f"{result['goodput_rps']:6.1f} of {result['offered_rps']:6.1f}/s in time ({classes})"
        f", late {result['late']}, shed {result['shed']}, error {result['error']}, lag {result['lag_p99_ms']:.1f} ms"
        f"{'  VOID' if result['void'] else ''}  {params['knobs'] or ''}"
    )


def _report_failures(failed: dict[str, str]) -> None:
    for name, reason in failed.items():
        click.echo(f"{name} failed: {reason}")


def _run() -> None:
    try:
        main(standalone_mode=True)
    except SpongeError as error:
        sys.exit(f"bench.serving: {error}")


if __name__ == "__main__":
    _run()
