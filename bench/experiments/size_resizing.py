"""Compares live resizing with fixed sizes where requests differ in size: the BERT and the texts of `sizes`.

In virtual time, under Poisson arrivals and under the bursts of the public Twitter stream, thinned to the same rates. A
fixed size counts if it answers 99 % in time; live resizing is Sponge's, with the joint distribution of size and
remaining SLO in its forecast. Sizes are quarters of a core, up to 4.

    python -m bench.experiments.size_resizing
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from bench.experiments.sizes import BERT, MAX_BATCH, RATES, SLOS_S, schedule, true_s
from bench.results import SOFT, SPONGE, new_table, save
from bench.simulations import arguments, parsed
from sponge_core.dispatch.policies.moldable import MoldableEdf
from sponge_simulator.fleet import ClusterModel, simulate
from sponge_simulator.scaling.interface import ScalingPolicy, Service
from sponge_simulator.scaling.sponge import Sponge
from sponge_simulator.scaling.static import Static
from sponge_workload.files import load_arrivals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGET = 0.99
STEP_CORES, MAX_CORES = 0.25, 4.0


class Case(NamedTuple):
    """One run; `cores` 0: live resizing."""

    arrivals: str
    cores: float
    rate: float
    seed: int
    duration_s: float


class Found(NamedTuple):
    """Figures of one run, or means of several."""

    attainment: float
    cores: float
    resizes_per_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """Live resizing and the smallest fixed size that reaches the target, at one rate."""

    arrivals: str
    rate: float
    attainment: float
    mean_cores: float
    resizes_per_s: float
    fixed_cores: float
    fixed_attainment: float

    @property
    def ratio(self) -> float:
        """Mean cores over fixed cores."""
        return self.mean_cores / self.fixed_cores


def run(case: Case) -> Found:
    """One schedule under one policy."""
    times = load_arrivals(case.arrivals, case.rate, case.duration_s, case.seed, os.environ)
    requests = schedule(times, case.seed)
    service = Service(
        BERT,
        max(SLOS_S.values()),
        case.rate,
        MAX_BATCH,
        STEP_CORES,
        case.cores or MAX_CORES,
        STEP_CORES,
        max_replicas=1,
    )
    policy: ScalingPolicy = Static(service, case.cores) if case.cores else Sponge(service)
    result = simulate(requests, service, policy, MoldableEdf(), ClusterModel(case.duration_s, takes_s=true_s))
    cores = result.core_seconds / case.duration_s
    return Found(result.in_time / result.sent, cores, result.resizes / case.duration_s)


def means(workers: ProcessPoolExecutor, cases: Sequence[Case]) -> Found:
    """The means over the seeds."""
    found = list(workers.map(run, cases))
    return Found(*(mean(getattr(one, name) for one in found) for name in Found._fields))


def compare(arrivals: str, rate: float, seeds: int, duration_s: float, workers: ProcessPoolExecutor) -> Row:
    """Live resizing, then fixed sizes, the smallest first."""
    cases = [Case(arrivals, 0.0, rate, seed, duration_s) for seed in range(1, seeds + 1)]
    live = means(workers, cases)
    cores = STEP_CORES * 2
    while True:
        fixed = means(workers, [case._replace(cores=cores) for case in cases])
        if fixed.attainment >= TARGET or cores >= MAX_CORES:
            break
        cores += STEP_CORES
    return Row(arrivals, rate, live.attainment, live.cores, live.resizes_per_s, cores, fixed.attainment)


def draw(figure: Figure, rows: Sequence[Row]) -> None:
    """Draws the cores of both, by rate."""
    axes = figure.subplots()
    places = range(len(rows))
    axes.bar([at - 0.2 for at in places], [row.fixed_cores for row in rows], 0.4, color=SOFT, label="fixed, 99 %")
    axes.bar([at + 0.2 for at in places], [row.mean_cores for row in rows], 0.4, color=SPONGE, label="live resizing")
    axes.set_xticks(list(places), [f"{row.arrivals}\n{row.rate:g}/s" for row in rows])
    axes.set_ylabel("mean cores")
    axes.legend(frameon=False)


def main() -> None:
    """Runs every rate; prints a table, writes JSON and a plot."""
    options = parsed(arguments(__doc__), 10.0)
    seeds, duration_s = options.seeds, options.duration_s
    with ProcessPoolExecutor(options.processes or None) as workers:
        rows = [
            compare(arrivals, rate, seeds, duration_s, workers) for arrivals in ("poisson", "twitter") for rate in RATES
        ]
    title = "BERT, texts of 8 to 400 tokens: live resizing against the smallest fixed size for 99 %"
    figures = ["rate", "in time %", "mean cores", "resizes/s", "fixed cores", "in time %", "ratio"]
    table = new_table(title, ["arrivals"], figures)
    for row in rows:
        table.add_row(
            row.arrivals,
            f"{row.rate:g}",
            f"{100 * row.attainment:.2f}",
            f"{row.mean_cores:.2f}",
            f"{row.resizes_per_s:.2f}",
            f"{row.fixed_cores:g}",
            f"{100 * row.fixed_attainment:.2f}",
            f"{row.ratio:.2f}",
        )
    Console(width=110).print(table)
    document = {"seeds": seeds, "duration_s": duration_s, "rows": [asdict(row) | {"ratio": row.ratio} for row in rows]}
    save(options.out, "size_resizing", document, lambda figure: draw(figure, rows))


if __name__ == "__main__":
    main()
