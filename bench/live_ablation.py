"""Compares the dispatch rule with others on a real server: real torch, a real CPU limit, the same requests for each.

Arrivals are Poisson, half due after 300 ms and half after 1000 ms, below and above capacity. The capacity is the
throughput of patient clients under the default rule. Each rule runs in a server of its own;
`bench.dispatch_ablation` does the same in virtual time, on more cores than this machine has.

    python -m bench.live_ablation
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import TYPE_CHECKING

from rich.console import Console

from bench.live_server import LiveServer
from bench.options import arguments
from bench.overload_classes import CLASSES_S, MAX_BATCH, schedule, send
from bench.pressure import photographs, saturated_rps
from bench.results import BLUE, SOFT, SPONGE, new_table, save
from sponge_client.wire import precise_loop, prioritize_process
from sponge_core.dispatch.registry import DEFAULT
from sponge_simulator.ablation import VARIANTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CORES = 2.0
LOADS = (0.9, 1.3, 2.0)
SECONDS = 10.0
CAPACITY_S = 8.0

RULES: Mapping[str, str] = {
    DEFAULT: "the default: cheapest batch and threads for the earliest deadline, lanes side by side, sheds",
    "no sacrifice": "the same, but gives up only what is lost",
    "one thread": "threads do not follow the deadline: one a batch",
    "one lane": "one batch at a time, threads as its deadline needs",
    "fixed batch": "full batches whatever the slack, by deadline, sheds what is lost",
    "fixed batch, no shedding": "the same, drops nothing",
    "fifo": "the same in the order of arrival",
    "edf-single-lane": "as in the paper: one batch at a time on all cores, by deadline, drops nothing",
}
"""The rules that are compared, and how each differs from the default."""


@dataclass(frozen=True, slots=True)
class Row:
    """One rule at one load, over all seeds."""

    rule: str
    load: float
    offered_rps: float
    goodput_rps: float
    share: float  # goodput / min(offered, capacity)
    in_time_by_class: tuple[float, ...]  # of those sent, as in CLASSES_S


def server_of(rule: str) -> LiveServer:
    """A server with this rule, not started yet."""
    if rule in VARIANTS:
        return LiveServer(CORES, "--max-batch", str(MAX_BATCH), program=("bench.served_variant", rule))
    return LiveServer(CORES, "--max-batch", str(MAX_BATCH), "--dispatch", rule)


def measure(rule: str, capacity: float, loads: Sequence[float], seeds: Sequence[int]) -> list[Row]:
    """Runs one rule on a fresh server through all loads."""
    rows = []
    with server_of(rule) as server, asyncio.Runner(loop_factory=precise_loop) as runner:
        bodies = photographs(server)
        for load in loads:
            records = [
                record
                for seed in seeds
                for record in runner.run(send(server, bodies, schedule(load * capacity, SECONDS, seed, len(bodies))))
            ]
            offered = len(records) / SECONDS / len(seeds)
            goodput = sum(record.outcome == "in_time" for record in records) / SECONDS / len(seeds)
            by_class = [mean(r.outcome == "in_time" for r in records if r.slo_s == slo_s) for slo_s in CLASSES_S]
            rows.append(Row(rule, load, offered, goodput, goodput / min(offered, capacity), tuple(by_class)))
    return rows


def draw(figure: Figure, rows: Sequence[Row]) -> None:
    """Draws the share of the possible goodput: a group of bars per rule, one bar per load."""
    axes = figure.subplots()
    loads = sorted({row.load for row in rows})
    colours = dict(zip(loads, (SOFT, BLUE, SPONGE), strict=False))
    rules = list(dict.fromkeys(row.rule for row in rows))
    height = 0.8 / len(loads)
    for row in rows:
        at = rules.index(row.rule) + (loads.index(row.load) - (len(loads) - 1) / 2) * height
        axes.barh(at, 100 * row.share, height, color=colours[row.load])
    for load in loads:
        axes.plot([], [], "s", color=colours[load], label=f"{load:g} times the capacity")
    axes.axvline(100, color=SOFT, linestyle="--")
    axes.set_yticks(range(len(rules)), rules)
    axes.invert_yaxis()
    axes.set_xlabel("goodput, % of min(offered, capacity)")
    axes.legend(frameon=False, loc="lower right")


def main() -> None:
    """Measures, writes and prints."""
    parser = arguments(__doc__)
    options = parser.parse_args()
    loads, seeds = (LOADS[1:2], (1,)) if options.short else (LOADS, (1, 2))
    console = Console()
    prioritize_process()
    with server_of(DEFAULT) as server:
        capacity = saturated_rps(server, photographs(server)[0], CAPACITY_S)
    rows: list[Row] = []
    for rule in RULES:
        console.print(f"{rule} ...", style="dim")
        rows += measure(rule, capacity, loads, seeds)
    save(
        options.out,
        "live_ablation",
        {"cores": CORES, "capacity_rps": capacity, "classes_s": CLASSES_S, "rows": [asdict(row) for row in rows]},
        lambda figure: draw(figure, rows),
    )
    title = f"{CORES:g} cores, capacity {capacity:.1f}/s; goodput in % of the possible, tight / loose in time"
    table = new_table(title, ["rule"], [f"{load:g}x" for load in loads])
    for rule in RULES:
        cells = [row for row in rows if row.rule == rule]
        table.add_row(
            f"{rule}\n[dim]{RULES[rule]}[/dim]",
            *(
                f"{100 * row.share:.0f} %\n" + " / ".join(f"{100 * share:.0f}" for share in row.in_time_by_class)
                for row in cells
            ),
        )
    console.print(table)


if __name__ == "__main__":
    main()
