"""Compares dispatch rules where requests differ in size: a small BERT with texts of 8 to 400 tokens on 2 cores.

Runs in virtual time with the server's own policy objects. Lengths are lognormal (mu 4.0, sigma 0.9). Arrivals are
Poisson, half due after 200 ms and half after 1000 ms. Batch times come from measured ones of a BERT of 6 layers, 384
wide: 16 tokens take 12.7 ms on one thread, 64 take 23.9, 256 take 81, and 44.9 on two. Batches are padded.

The capacity is the rate at which the work of all requests, each in a batch of eight of its own size, fills the cores.
No rule can reach it in real traffic, because few requests that wait together have one size.

    python -m bench.experiments.sizes
    python -m bench.experiments.sizes --short --rules "size-blind" search
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.console import Console

from bench.bert_sizes import LONGEST, MEAN_LOG, SHORTEST, SPREAD_LOG
from bench.experiments.size_rules import by_bucket, by_slack, one_by_one
from bench.results import draw_lines, new_table, save
from bench.simulations import arguments, compared_rules, parsed, run_all
from sponge_core.calibration import Calibration
from sponge_core.dispatch.decision import Decision, DispatchState, Launch
from sponge_core.dispatch.interface import Dispatcher
from sponge_core.dispatch.moldable_edf import decide
from sponge_core.dispatch.size_matching import Match, cheapest_match
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel, SizeCurve
from sponge_simulator.fleet import ClusterModel, simulate
from sponge_simulator.scaling.interface import Service
from sponge_simulator.scaling.static import Static
from sponge_workload.arrivals import poisson_arrivals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#3b6fb6", "#8a4fa3", "#c8772d", "#5b8c3a", "#b5446e")
CORES: Final = 2
MAX_BATCH: Final = 8
SLOS_S: Final = {"200 ms": 0.2, "1000 ms": 1.0}
RATES: Final = (20.0, 30.0, 45.0)
LOADS: Final = (0.9, 1.3)
PROFILED: Final = 16
"""The size that a size-blind profile is measured at: the server's default for a dynamic dimension."""

PER_TOKEN_S, PER_TOKEN_PAIR_S, FIXED_S = 0.212e-3, 0.267e-6, 9.24e-3
SERIAL_S: Final = 8.8e-3
"""Of the fixed part: what a second thread does not speed up."""

BERT: Final = LatencyModel(
    gamma=1.0,
    delta=0.0,
    epsilon=FIXED_S - SERIAL_S,
    eta=SERIAL_S,
    error=0.02,
    max_batch=MAX_BATCH,
    sizes=SizeCurve((0.0, PER_TOKEN_S, PER_TOKEN_PAIR_S), (0.0, 0.0, 0.0)),
)


class SizedEdf(Dispatcher):
    """Moldable EDF with one way to find the batch of a head."""

    def __init__(self, match: Match) -> None:
        self._match = match

    def decide(self, state: DispatchState) -> Decision:
        return decide(state, match=self._match)


class Rule(NamedTuple):
    """A rule, and the size that its profile was measured at; None: it knows each request's size."""

    match: Match
    profiled: int | None = None


RULES: Final[dict[str, Rule]] = {
    "size-blind": Rule(cheapest_match, PROFILED),
    "size-blind, profiled at 256": Rule(cheapest_match, 256),
    "one by one": Rule(one_by_one),
    "greedy by bucket": Rule(by_bucket),
    "by slack": Rule(by_slack),
    "search": Rule(cheapest_match),
}


class Case(NamedTuple):
    """One run."""

    rule: str
    rate: float
    seed: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """Figures of one run, or means of several."""

    rule: str
    rate: float
    tight: float  # fraction of the 200 ms class in time
    loose: float
    goodput_rps: float
    of_possible: float  # goodput over the smaller of offered rate and capacity


def length(draw: random.Random) -> int:
    """The tokens of one request."""
    return min(LONGEST, max(SHORTEST, round(draw.lognormvariate(MEAN_LOG, SPREAD_LOG))))


def capacity_rps() -> float:
    """Requests per second when each has a batch of its own size."""
    draw = random.Random(0)
    costs = [BERT.at(length(draw)).latency(MAX_BATCH, 1) / MAX_BATCH for _ in range(20_000)]
    return CORES / mean(costs)


def schedule(times: Sequence[float], seed: int) -> list[Request]:
    """The inputs that all rules share, by their times of arrival."""
    draw = random.Random(seed)
    requests = []
    for number, at in enumerate(times):
        name = draw.choice(list(SLOS_S))
        requests.append(Request(number, at, at + SLOS_S[name], at, name, size=float(length(draw))))
    return requests


def true_s(launch: Launch) -> float:
    """What a batch takes."""
    latency = BERT.of_batch([request.size for request in launch.requests])
    return latency.latency(len(launch.requests), launch.threads)


def learning(blind: LatencyModel) -> Callable[[Launch, float], LatencyModel]:
    """The server's online correction of a profile that knows one size."""
    calibration = Calibration()

    def learn(launch: Launch, took_s: float) -> LatencyModel:
        calibration.observe(blind.latency(len(launch.requests), launch.threads), took_s, launch.threads)
        return calibration.calibrated(blind)

    return learn


def run(case: Case) -> Found:
    """One rule on one schedule."""
    rule = RULES[case.rule]
    model = BERT if rule.profiled is None else BERT.at(rule.profiled)
    requests = schedule(poisson_arrivals(case.rate, case.duration_s, case.seed), case.seed)
    service = Service(model, max(SLOS_S.values()), case.rate, MAX_BATCH, max_cores=float(CORES))
    learn = None if rule.profiled is None else learning(model)
    cluster = ClusterModel(case.duration_s, takes_s=true_s, learn=learn)
    result = simulate(requests, service, Static(service, float(CORES)), SizedEdf(rule.match), cluster)
    offered, goodput = result.sent / case.duration_s, result.in_time / case.duration_s
    tight, loose = (result.attainment[name] for name in SLOS_S)
    return Found(case.rule, case.rate, tight, loose, goodput, goodput / min(offered, capacity_rps()))


def summarise(found: Sequence[Found]) -> list[Found]:
    """Means over the seeds."""
    groups: dict[tuple[str, float], list[Found]] = {}
    for one in found:
        groups.setdefault((one.rule, one.rate), []).append(one)
    return [
        Found(
            rule,
            rate,
            *(mean(getattr(one, name) for one in group) for name in ("tight", "loose", "goodput_rps", "of_possible")),
        )
        for (rule, rate), group in groups.items()
    ]


def draw_on(figure: Figure, rows: Sequence[Found]) -> None:
    """Draws the tight class in time, by rate."""
    axes = figure.subplots()
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(rows, key=lambda row: row.rate):
        lines.setdefault(row.rule, []).append((row.rate, 100 * row.tight))
    draw_lines(axes, lines, "search", COLOURS)
    axes.set_xlabel("requests per second")
    axes.set_ylabel("200 ms class in time, %")
    axes.set_ylim(0, 105)
    axes.legend(frameon=False)


def main() -> None:
    """Runs every rule at every rate; prints a table, writes JSON and a plot."""
    parser = arguments(__doc__)
    compared_rules(parser, RULES)
    options = parsed(parser, 20.0)
    seeds, duration_s = options.seeds, options.duration_s
    capacity = capacity_rps()
    rates = (*RATES, *(round(load * capacity, 1) for load in LOADS))
    cases = [
        Case(rule, rate, seed, duration_s) for rate in rates for rule in options.rules for seed in range(1, seeds + 1)
    ]
    rows = summarise(run_all(run, cases, options.processes))
    title = f"BERT on {CORES} cores, capacity {capacity:.0f}/s: in time %, 200 ms / 1000 ms (goodput %)"
    table = new_table(title, ["rule"], [f"{rate:g}/s" for rate in rates])
    for name in options.rules:
        found = {row.rate: row for row in rows if row.rule == name}
        cells = [
            f"{100 * row.tight:.2f} / {100 * row.loose:.2f} ({100 * row.of_possible:.1f})"
            for row in (found[rate] for rate in rates)
        ]
        table.add_row(name, *cells)
    Console(width=160).print(table)
    document = {"capacity_rps": capacity, "seeds": seeds, "duration_s": duration_s, "rows": [asdict(r) for r in rows]}
    save(options.out, "sizes", document, lambda figure: draw_on(figure, rows))


if __name__ == "__main__":
    main()
