"""Compares rules for cheaper variants under overload: ResNet-50, with ResNet-18 and MobileNetV3-Small below it.

Runs in virtual time with the server's own policy objects. Batch times are the shipped profiles of the three nets on one
machine, accuracies the top-1 that torchvision publishes for their first weights. A fifth of the requests have no floor
(gold), half must have 69 % (standard), the others 60 % (basic). Arrivals are Poisson; a batch takes 0.95 of what is
predicted, with a standard deviation of 0.05.

Rates are relative to the capacity of ResNet-50 in full batches on 4 cores. First those cores are fixed, also with SLOs
shorter than a full batch takes; then Sponge resizes, where the cores can be had, and where the node has no more than 4.

    python -m bench.experiments.variants
    python -m bench.experiments.variants --short --rules none replay
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import mean
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from bench.experiments.variant_rules import ByLevel, by_backlog, by_head, by_rate, by_slack, cheapest
from bench.results import draw_lines, new_table, save
from bench.simulations import arguments, compared_rules, parsed, run_all
from sponge_core.dispatch.decision import Variant
from sponge_core.dispatch.interface import Dispatcher
from sponge_core.dispatch.policies.moldable import MoldableEdf
from sponge_core.edf_queue import Request
from sponge_profiles.profile import load_profile
from sponge_simulator.fleet import ClusterModel, SimulationResult, simulate
from sponge_simulator.scaling.interface import ScalingPolicy, Service
from sponge_simulator.scaling.sponge import Sponge
from sponge_simulator.scaling.static import Static
from sponge_workload.arrivals import poisson_arrivals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#c8372d", "#9aa5b1", "#8a4fa3", "#c8772d", "#5b8c3a", "#b5446e")
CORES: Final = 4.0
MAX_BATCH: Final = 8
LOADS: Final = (0.8, 1.0, 1.3, 1.6)
TOP_1: Final = (0.7613, 0.6976, 0.6767)
FULL: Final = load_profile("resnet50-epyc").latency_model()
VARIANTS: Final = (
    Variant(TOP_1[1], load_profile("resnet18-epyc").latency_model()),
    Variant(TOP_1[2], load_profile("mobilenet-v3-small-epyc").latency_model()),
)


class Kind(NamedTuple):
    """An SLO class: its share of the requests, its SLO and its floor."""

    share: float
    slo_s: float
    floor: float


class Place(NamedTuple):
    """Where a run takes place: the SLOs of gold, standard and basic, and whether Sponge resizes, up to how much."""

    title: str
    slos_s: tuple[float, float, float]
    resized: bool = False
    node_cores: float = float("inf")

    @property
    def kinds(self) -> dict[str, Kind]:
        """The SLO classes by name."""
        gold, standard, basic = self.slos_s
        return {
            "gold": Kind(0.2, gold, float("inf")),
            "standard": Kind(0.5, standard, 0.69),
            "basic": Kind(0.3, basic, 0.6),
        }


WIDE, TIGHT = (0.5, 0.5, 1.0), (0.15, 0.2, 1.0)
PLACES: Final = {
    "fixed": Place(f"{CORES:g} cores, SLOs 500, 500, 1000 ms", WIDE),
    "tight": Place(f"{CORES:g} cores, SLOs 150, 200, 1000 ms", TIGHT),
    "resized": Place(f"resized, up to {2 * CORES:g} cores, SLOs 500, 500, 1000 ms", WIDE, True),
    "full node": Place(f"resized, {CORES:g} cores on the node, SLOs 500, 500, 1000 ms", WIDE, True, CORES),
}

RULES: Final[dict[str, Callable[[], Dispatcher]]] = {
    "none": MoldableEdf,
    "always cheapest": lambda: ByLevel(cheapest),
    "by rate": lambda: ByLevel(by_rate),
    "by head": lambda: ByLevel(by_head),
    "by slack": lambda: ByLevel(by_slack),
    "by backlog": lambda: ByLevel(by_backlog),
    "replay": MoldableEdf,
}


class Case(NamedTuple):
    """One run."""

    place: str
    rule: str
    load: float
    seed: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """Figures of one run, or means of several."""

    place: str
    rule: str
    load: float
    in_time: float  # fraction of all sent
    gold: float  # fraction of that class in time
    accuracy: float  # mean over the answers in time
    full: float  # share of the answers in time that the model itself gave
    correct: float  # fraction of all sent whose answer is in time and right: in time x accuracy
    cores: float


def capacity_rps() -> float:
    """Requests per second of full batches on one thread a core."""
    return CORES * MAX_BATCH / (FULL.latency(MAX_BATCH, 1) * FULL.slowdown(int(CORES) - 1))


def schedule(kinds: Mapping[str, Kind], times: Sequence[float], seed: int) -> list[Request]:
    """The inputs that all rules share, by their times of arrival."""
    draw = random.Random(seed)
    names, shares = list(kinds), [kind.share for kind in kinds.values()]
    requests = []
    for number, at in enumerate(times):
        name = draw.choices(names, shares)[0]
        kind = kinds[name]
        requests.append(Request(number, at, at + kind.slo_s, at, name, floor=kind.floor))
    return requests


def simulated(case: Case) -> SimulationResult:
    """One rule on one schedule."""
    rate, place = case.load * capacity_rps(), PLACES[case.place]
    requests = schedule(place.kinds, poisson_arrivals(rate, case.duration_s, case.seed), case.seed)
    variants = () if case.rule == "none" else VARIANTS
    most = 2 * CORES if place.resized else CORES
    service = Service(FULL, 1.0, rate, MAX_BATCH, max_cores=most, max_replicas=1, variants=variants)
    policy: ScalingPolicy = Sponge(service) if place.resized else Static(service, CORES)
    draw = random.Random(case.seed)
    cluster = ClusterModel(case.duration_s, service_ratio=lambda: draw.gauss(0.95, 0.05), node_cores=place.node_cores)
    return simulate(requests, service, policy, RULES[case.rule](), cluster)


def run(case: Case) -> Found:
    """The figures of one run."""
    result = simulated(case)
    right = sum(TOP_1[variant] * count for variant, count in result.in_time_by_variant.items())
    return Found(
        case.place,
        case.rule,
        case.load,
        result.in_time / result.sent,
        result.attainment["gold"],
        right / max(1, result.in_time),
        result.in_time_by_variant.get(0, 0) / max(1, result.in_time),
        right / result.sent,
        result.mean_cores,
    )


def summarise(found: Sequence[Found]) -> list[Found]:
    """Means over the seeds."""
    groups: dict[tuple[str, str, float], list[Found]] = {}
    for one in found:
        groups.setdefault((one.place, one.rule, one.load), []).append(one)
    figures = [field.name for field in fields(Found)][3:]
    return [
        Found(*key, *(mean(getattr(one, name) for one in group) for name in figures)) for key, group in groups.items()
    ]


def shown(title: str, rows: Sequence[Found]) -> Table:
    """One line for each rule, one column for each load."""
    loads = list(dict.fromkeys(row.load for row in rows))
    table = new_table(title, ["rule"], [f"{load:g}" for load in loads])
    for rule in dict.fromkeys(row.rule for row in rows):
        own = {row.load: row for row in rows if row.rule == rule}
        cells = [
            f"{100 * row.in_time:.2f} ({100 * row.gold:.2f}) {100 * row.accuracy:.2f} {row.cores:.2f}"
            for row in (own[load] for load in loads)
        ]
        table.add_row(rule, *cells)
    return table


def draw_on(figure: Figure, rows: Sequence[Found]) -> None:
    """Draws the fixed cores: in time and accuracy, by load."""
    for axes, name, label in zip(
        figure.subplots(1, 2),
        ("in_time", "accuracy"),
        ("in time, %", "accuracy of the answers in time, %"),
        strict=True,
    ):
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if row.place == "fixed":
                lines.setdefault(row.rule, []).append((row.load, 100 * getattr(row, name)))
        draw_lines(axes, lines, "replay", COLOURS)
        axes.set_xlabel("load over the capacity of the full model")
        axes.set_ylabel(label)
    axes.legend(frameon=False)


def main() -> None:
    """Runs every rule at every load; prints tables, writes JSON and a plot."""
    parser = arguments(__doc__)
    compared_rules(parser, RULES)
    options = parsed(parser, 20.0)
    seeds, duration_s = options.seeds, options.duration_s
    cases = [
        Case(place, rule, load, seed, duration_s)
        for place in PLACES
        for load in LOADS
        for rule in options.rules
        for seed in range(1, seeds + 1)
    ]
    rows = summarise(run_all(run, cases, options.processes))
    for name, place in PLACES.items():
        title = f"{place.title}; 1 is {capacity_rps():.0f}/s: in time % (gold) accuracy % cores"
        Console(width=150).print(shown(title, [row for row in rows if row.place == name]))
    document = {
        "capacity_rps": capacity_rps(),
        "seeds": seeds,
        "duration_s": duration_s,
        "rows": [asdict(row) for row in rows],
    }
    save(options.out, "variants", document, lambda figure: draw_on(figure, rows))


if __name__ == "__main__":
    main()
