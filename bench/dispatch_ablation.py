"""Compares dispatch policies, and moldable EDF with one part removed, from light load to twice the capacity.

Runs in virtual time with the server's own policy objects. Arrivals are Poisson, half due after 300 ms and half after
1000 ms; cores are fixed; service times come from the profile. The capacity is the throughput with one thread per
batch, one batch per core, and every batch as full as its class's deadline allows.

    python -m bench.dispatch_ablation
    python -m bench.dispatch_ablation --short --profile resnet18-epyc
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from bench.results import INK, draw_lines, new_table, save
from bench.simulations import arguments, parsed, run_all
from sponge_core.cpu_sharing import CpuLoad
from sponge_core.dispatch.batch_sizing import cheapest_batch
from sponge_core.dispatch.registry import DEFAULT, POLICIES
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_profiles.profile import load_profile
from sponge_simulator.ablation import VARIANTS
from sponge_simulator.fleet import ClusterModel, simulate
from sponge_simulator.scaling.interface import Service
from sponge_simulator.scaling.static import Static
from sponge_workload.arrivals import poisson_arrivals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SLOS_S = (0.3, 1.0)
ALL = POLICIES | VARIANTS
LOADS = (0.7, 1.0, 1.3, 2.0)
CORES = (2, 4, 8, 16)


class Case(NamedTuple):
    """One run."""

    policy: str
    profile: str
    cores: int
    load: float
    seed: int
    duration_s: float


class Found(NamedTuple):
    """Figures of one run."""

    case: Case
    offered_rps: float
    goodput_rps: float
    tight: float  # attainment
    loose: float


@dataclass(frozen=True, slots=True)
class Row:
    """One policy at one load on one size, over all seeds."""

    policy: str
    cores: int
    load: float
    offered_rps: float
    goodput_rps: float
    of_possible: float  # goodput over the smaller of offered rate and capacity
    attainment: float
    attainment_tight: float
    attainment_loose: float


def capacity_rps(model: LatencyModel, cores: int) -> float:
    """Answers per second when every batch is as full as its deadline allows."""
    costs = []
    for slo_s in SLOS_S:
        full = cheapest_batch(model, slo_s, model.max_batch, 1, CpuLoad(0.0, cores, []))
        if full is None:
            raise SystemExit(f"dispatch_ablation: no request can be answered in {slo_s * 1000:.0f} ms on one thread")
        costs.append(full.cost)
    return cores / mean(costs) / model.slowdown(cores - 1)


def load_model(profile: str) -> LatencyModel:
    found = load_profile(profile)
    return replace(found.latency_model(), max_batch=found.max_batch)


def schedule(rate: float, duration_s: float, seed: int) -> list[Request]:
    """The inputs that all policies share."""
    draw = random.Random(seed)
    requests = []
    for number, at in enumerate(poisson_arrivals(rate, duration_s, seed)):
        slo_s = draw.choice(SLOS_S)
        requests.append(Request(number, at, at + slo_s, at, "tight" if slo_s == SLOS_S[0] else "loose"))
    return requests


def run(case: Case) -> Found:
    """One policy on one schedule."""
    model = load_model(case.profile)
    requests = schedule(case.load * capacity_rps(model, case.cores), case.duration_s, case.seed)
    service = Service(model, max(SLOS_S), len(requests) / case.duration_s, model.max_batch, max_cores=float(case.cores))
    size, dispatcher = Static(service, float(case.cores)), ALL[case.policy].make()
    result = simulate(requests, service, size, dispatcher, ClusterModel(case.duration_s))
    offered, goodput = result.sent / case.duration_s, result.in_time / case.duration_s
    return Found(case, offered, goodput, result.attainment["tight"], result.attainment["loose"])


def summarise(found: Sequence[Found]) -> list[Row]:
    """Means over the seeds."""
    groups: dict[tuple[str, int, float], list[Found]] = {}
    for one in found:
        groups.setdefault((one.case.policy, one.case.cores, one.case.load), []).append(one)
    rows = []
    for (policy, cores, load), group in groups.items():
        offered = mean(one.offered_rps for one in group)
        goodput = mean(one.goodput_rps for one in group)
        possible = min(offered, capacity_rps(load_model(group[0].case.profile), cores))
        tight, loose = mean(one.tight for one in group), mean(one.loose for one in group)
        rows.append(Row(policy, cores, load, offered, goodput, goodput / possible, goodput / offered, tight, loose))
    return rows


def draw_on(figure: Figure, rows: Sequence[Row], cores: int) -> None:
    """Draws goodput over possible goodput at one size: policies on the left, variants on the right."""
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, names, title in ((left, [*POLICIES], "policies"), (right, [DEFAULT, *VARIANTS], "without a part")):
        own = {name: [row for row in rows if row.policy == name and row.cores == cores] for name in names}
        lines = {name: [(row.load, 100 * row.of_possible) for row in line] for name, line in own.items()}
        draw_lines(axes, lines, DEFAULT)
        axes.set_title(title)
        axes.set_xlabel("load / capacity")
        axes.legend(fontsize=7, frameon=False)
    left.set_ylim(0, 105)
    left.set_ylabel("goodput, % of what is possible")
    figure.suptitle(f"{cores} cores, half 300 ms, half 1000 ms", x=0.01, ha="left", color=INK)


def main() -> None:
    """Runs every policy at every load and size; prints a table, writes JSON and a plot."""
    parser = arguments(__doc__, duration_s=20.0, processes=0)
    parser.add_argument("--profile", default="resnet18", help="a shipped profile or a file (default resnet18)")
    options = parsed(parser, 8.0)
    sizes = CORES[:2] if options.short else CORES
    seeds, duration_s = options.seeds, options.duration_s
    cases = [
        Case(policy, options.profile, cores, load, seed, duration_s)
        for cores in reversed(sizes)
        for load in LOADS
        for policy in ALL
        for seed in range(1, seeds + 1)
    ]
    console = Console()
    rows = sorted(summarise(run_all(run, cases, options.processes)), key=lambda row: (row.cores, row.load))
    for cores in sizes:
        capacity = capacity_rps(load_model(options.profile), cores)
        title = f"{options.profile}, {cores} cores, capacity {capacity:.0f}/s: goodput % of possible"
        table = new_table(title, ["policy"], [f"{load:g}x (tight/loose in time %)" for load in LOADS])
        for policy in ALL:
            cells = [
                f"{100 * row.of_possible:.1f} ({100 * row.attainment_tight:.0f}/{100 * row.attainment_loose:.0f})"
                for row in rows
                if (row.policy, row.cores) == (policy, cores)
            ]
            table.add_row(policy, *cells)
        console.print(table)
    document = {"profile": options.profile, "seeds": seeds, "duration_s": duration_s, "rows": [asdict(r) for r in rows]}
    shown = sizes[min(1, len(sizes) - 1)]
    save(options.out, "dispatch_ablation", document, lambda figure: draw_on(figure, rows, shown))


if __name__ == "__main__":
    main()
