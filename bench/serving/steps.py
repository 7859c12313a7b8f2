"""The steps of a campaign as the commands carry them out: within a time budget, with a bar, a line for every result.

A system that fails is reported and passed over; the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from bench.serving import campaign
from bench.serving.campaign import Plan, Visit
from bench.serving.environments import set_up
from bench.serving.ledger import Ledger
from bench.serving.live_cores import CORES_RUN_S, measure_cores
from bench.serving.measure import Timing
from bench.serving.overhead import OVERHEAD_S, measure_overhead
from sponge_core.errors import SpongeError

__all__ = ["Budget", "OutOfTimeError", "Steps"]

CAPACITY_S = 45.0
_console = Console(stderr=True)


class OutOfTimeError(Exception):
    """The time budget ended before the work."""


class Budget:
    """Seconds from now on; None: as long as it takes."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def left_s(self) -> float:
        return float("inf") if self._end is None else self._end - time.monotonic()

    def need(self, seconds: float) -> None:
        """Raises OutOfTimeError when less than `seconds` are left."""
        if self.left_s() < seconds:
            raise OutOfTimeError


class Steps:
    """The steps of one campaign.

    Args:
        out: folder of logs and reports.
        say: takes each line of the results.
    """

    def __init__(self, ledger: Ledger, plan: Plan, out: Path, budget: Budget, say: Callable[[str], None]) -> None:
        self.failed: dict[str, str] = {}  # by system: why
        self._ledger = ledger
        self._plan = plan
        self._out = out
        self._budget = budget
        self._say = say

    def setup(self) -> None:
        """Each peer's environment; a system without one takes no part in what follows."""
        for name in self._plan.systems:
            began = time.monotonic()
            try:
                set_up(self._plan.system(name))
            except SpongeError as error:
                self._fail(name, error)
            else:
                self._say(f"{name:<10} {self._plan.system(name).version:<10} ready ({time.monotonic() - began:.0f} s)")
        self._plan = replace(self._plan, systems=tuple(n for n in self._plan.systems if n not in self.failed))

    def capacity(self, seconds: float = 4.0) -> None:
        """The bare loop at every sensible shape, `seconds` each."""
        self._budget.need(CAPACITY_S)
        unit = self._plan.served.workload.unit
        for figure in campaign.measure_capacity(self._ledger, self._plan, seconds):
            self._say(
                f"{figure['processes']} x {figure['threads']} threads, batch {figure['batch']:>2}: "
                f"{figure['rows_per_s']:6.1f} {unit}/s, a batch {figure['batch_p50_ms']:6.1f} ms"
            )
        self._say(f"capacity: {campaign.capacity_of(self._ledger, self._plan)['rows_per_s']:.1f} {unit}/s")

    def tune(self, candidates: int) -> None:
        """Configurations of every peer at each load, in runs of half the length. All of their first ones come first, so
        that none is tried where nothing is left to gain."""
        timing = self._plan.timing
        half = Timing((timing.duration_s + timing.warmup_s) / 2, timing.warmup_s, timing.hang_up_s)
        short = replace(self._plan, timing=half)
        for number in range(1, candidates + 1):
            self._perform(short, campaign.tune_visits(self._ledger, short, number))

    def goodput(self, defaults: bool) -> None:
        """Every load, mix and seed, as tuned, or as every system comes."""
        self._perform(self._plan, campaign.goodput_visits(self._ledger, self._plan, defaults))

    def overhead(self) -> None:
        """One request at a time, and saturation, beside the bare loop."""

        def measure(plan: Plan) -> Iterator[str]:
            for name, result in measure_overhead(self._ledger, plan, self._out / "logs"):
                yield (
                    f"{name:<9} one at a time {result['p50_ms']:.1f} ms (p99 {result['p99_ms']:.1f}), bare "
                    f"{result['bare_p50_ms']:.1f}; saturated {result['saturated_rps']:.1f}/s, bare {result['bare_rps']}"
                )

        self._one_by_one(measure, OVERHEAD_S)

    def cores(self) -> None:
        """The fewest fixed cores under a varying load, and Sponge resized live."""

        def measure(plan: Plan) -> Iterator[str]:
            for name, fixed, result in measure_cores(self._ledger, plan, self._out / "logs"):
                size = "resized live" if fixed is None else f"fixed at {fixed:g}"
                yield (
                    f"{name:<9} {size}: {result['attainment']:.2%} in time on {result['mean_cores']:.2f} cores, "
                    f"{result['resizes']} resizes"
                )

        self._one_by_one(measure, CORES_RUN_S)

    def _one_by_one(self, measure: Callable[[Plan], Iterator[str]], cost_s: float) -> None:
        """System by system; each line that `measure` yields is a measurement of about `cost_s`."""
        for name in self._plan.systems:
            lines = measure(replace(self._plan, systems=(name,)))
            try:
                while True:
                    self._budget.need(cost_s)
                    self._say(next(lines))
            except StopIteration:
                continue
            except SpongeError as error:
                self._fail(name, error)

    def _perform(self, plan: Plan, visits: list[Visit]) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        yardstick = campaign.Yardstick(self._ledger, plan)
        with Progress(*columns, TimeRemainingColumn(), console=_console, transient=True) as progress:
            task = progress.add_task("runs", total=sum(len(visit.runs) for visit in visits))
            for visit in visits:
                fitting = visit.within(self._budget.left_s())
                progress.update(task, description=f"{visit.kind} {visit.system}")
                try:
                    for params, result in campaign.perform(self._ledger, plan, fitting, self._out / "logs", yardstick):
                        progress.advance(task)
                        self._say(_line(params, result))
                except SpongeError as error:
                    self._fail(visit.system, error)
                    continue
                if len(fitting.runs) < len(visit.runs):
                    raise OutOfTimeError

    def _fail(self, name: str, error: SpongeError) -> None:
        self.failed[name] = str(error)
        self._say(f"{name:<12} failed: {error}")


def _line(params: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    classes = "  ".join(
        f"{name} {of['in_time'] / of['sent']:.0%}" for name, of in result["classes"].items() if of["sent"]
    )
    return (
        f"{params['system']:<12} {params['mix']:<7} {params['load']:.3g}x seed {params['seed']}: "
        f"{result['goodput_rps']:6.1f} of {result['offered_rps']:6.1f}/s in time ({classes}), "
        f"late {result['late']}, shed {result['shed']}, error {result['error']}, lag {result['lag_p99_ms']:.1f} ms"
        f"{'  VOID' if result['void'] else ''}  {params['knobs'] or ''}"
    )
