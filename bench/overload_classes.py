"""Overload with two classes of deadlines: the share of the possible goodput that is reached.

Poisson arrivals at 1.3 and 2 times the capacity, half due after 300 ms and half after 1000 ms, with one configuration.
The figure is goodput over min(offered, capacity). The capacity is the throughput of patient clients on the same server.

    python -m bench.overload_classes
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from bench.live_server import LiveServer
from bench.options import arguments, positive
from bench.pressure import photographs, saturated_rps
from bench.results import BLUE, SOFT, SPONGE, new_table, save
from sponge_client.load import LoadRun
from sponge_client.oip import InferBody
from sponge_client.outcomes import RequestRecord
from sponge_client.schedule import Schedule, Shot
from sponge_client.wire import precise_loop, prioritize_process
from sponge_core.control_api import OUTCOMES
from sponge_workload.arrivals import poisson_arrivals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BATCH = 8
CLASSES_S = (0.3, 1.0)
QUIET_S = 2.0


@dataclass(frozen=True, slots=True)
class Row:
    """One run."""

    cores: float
    overload: float
    seed: int
    capacity_rps: float
    offered_rps: float
    goodput_rps: float
    share: float  # goodput / min(offered, capacity)
    in_time_by_class: tuple[float, ...]  # of those sent, as in CLASSES_S
    outcomes: dict[str, int]
    computed_rps: float  # rows of all batches a second
    batch_size: float
    throttled_s: float  # summed over the cgroup's CPUs
    http_cores: float
    late_by_ms: float | None  # median of the late ones
    took_over_predicted: tuple[float, ...]  # p50, p90, p99 over batches
    lane_over_cpu: tuple[float, ...]  # the same of a lane's time by its threads' CPU; above 1 it stood still
    hand_over_ms: float  # median of a batch's time outside of its lane
    threads: float  # mean threads of a batch


def schedule(rate: float, seconds: float, seed: int, bodies: int) -> Schedule:
    """Draws the class of each request with equal probability."""
    arrivals = poisson_arrivals(rate, seconds, seed)
    rng = np.random.default_rng(seed + 1000)
    classes, chosen = rng.integers(0, len(CLASSES_S), len(arrivals)), rng.integers(0, bodies, len(arrivals))
    shots = zip(arrivals, classes.tolist(), chosen.tolist(), strict=True)
    return Schedule(tuple(Shot(i, at, CLASSES_S[which], body) for i, (at, which, body) in enumerate(shots)), seconds)


async def send(server: LiveServer, bodies: Sequence[InferBody], planned: Schedule) -> list[RequestRecord]:
    """One run, then a pause so that the server empties its queue."""
    load = LoadRun(server.url, server.model, planned, bodies, timeout_s=5.0)
    await load.run()
    await asyncio.sleep(QUIET_S)
    return load.records


def measure(
    server: LiveServer, bodies: Sequence[InferBody], capacity: float, overload: float, seconds: float, seed: int
) -> Row:
    """One run and its figures."""
    traced = len(server.events("batch.done"))
    before, cpu, throttled = server.metrics(), server.http_cpu_s(), server.cgroup.cpu_stat().throttled_s
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        records = runner.run(send(server, bodies, schedule(overload * capacity, seconds, seed, len(bodies))))
    after = server.metrics()

    def grown(name: str) -> float:
        return sum(value - before.get(key, 0.0) for key, value in after.items() if key.startswith(name))

    in_time = sum(record.outcome == "in_time" for record in records)
    late_ms = [1000 * (record.latency_s - record.slo_s) for record in records if record.outcome == "late"]
    offered, goodput = len(records) / seconds, in_time / seconds
    by_class = [[r.outcome == "in_time" for r in records if r.slo_s == slo_s] for slo_s in CLASSES_S]
    return Row(
        server.cores,
        overload,
        seed,
        round(capacity, 2),
        round(offered, 2),
        round(goodput, 2),
        round(goodput / min(offered, capacity), 4),
        tuple(round(mean(those), 4) for those in by_class),
        {outcome: sum(r.outcome == outcome for r in records) for outcome in OUTCOMES},
        round(grown("sponge_batch_size_sum") / seconds, 2),
        round(grown("sponge_batch_size_sum") / max(1.0, grown("sponge_batch_size_count")), 2),
        round(server.cgroup.cpu_stat().throttled_s - throttled, 2),
        round((server.http_cpu_s() - cpu) / seconds, 3),
        round(float(np.median(late_ms)), 1) if late_ms else None,
        *traces(server.events("batch.done")[traced:]),
    )


def traces(batches: Sequence[dict[str, float]]) -> tuple[tuple[float, ...], tuple[float, ...], float, float]:
    """Figures of single batches: the last four fields of a row."""

    def spread(values: list[float]) -> tuple[float, ...]:
        return tuple(round(float(x), 3) for x in np.percentile(values, (50, 90, 99)))

    return (
        spread([batch["took_ms"] / batch["predicted_ms"] for batch in batches]),
        spread([batch["lane_ms"] * batch["threads"] / max(batch["cpu_ms"], 0.01) for batch in batches]),
        round(float(np.median([batch["took_ms"] - batch["lane_ms"] for batch in batches])), 2),
        round(mean(batch["threads"] for batch in batches), 2),
    )


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draws the share of the possible goodput by run, and attainment by class."""
    left, right = figure.subplots(1, 2)
    cases = sorted({(row.cores, row.overload) for row in rows})
    names = [f"{cores:g} cores, {overload:g}x" for cores, overload in cases]
    for at, case in enumerate(cases):
        shares = [100 * row.share for row in rows if (row.cores, row.overload) == case]
        left.plot([at] * len(shares), shares, "o", color=SPONGE)
    left.axhline(100, color=SOFT, linestyle="--")
    left.set_xticks(range(len(cases)), names)
    left.set_ylabel("goodput, % of min(offered, capacity)")
    left.set_title("One dot a seed")
    width = 0.35
    for which, (slo_s, colour) in enumerate(zip(CLASSES_S, (SPONGE, BLUE), strict=True)):
        of_case = [[r.in_time_by_class[which] for r in rows if (r.cores, r.overload) == case] for case in cases]
        values = [100 * mean(those) for those in of_case]
        right.bar([at + (which - 0.5) * width for at in range(len(cases))], values, width, color=colour)
        right.plot([], [], "s", color=colour, label=f"due after {slo_s * 1000:g} ms")
    right.set_xticks(range(len(cases)), names)
    right.set_ylabel("% of those sent in time")
    right.set_title("By class")
    right.legend(frameon=False)


def main() -> None:
    """Measures, writes and prints."""
    parser = arguments(__doc__)
    parser.add_argument("--cores", type=positive, action="append", help="repeat; default 1 and 1.5")
    options = parser.parse_args()
    seeds, seconds = (1 if options.short else 3), 10.0
    rows: list[Row] = []
    prioritize_process()
    for cores in options.cores or (1.0, 1.5):
        with LiveServer(cores, "--max-batch", str(MAX_BATCH), "--log-level", "debug") as server:
            bodies = photographs(server)
            capacity = saturated_rps(server, bodies[0], 8.0)
            rows += [
                measure(server, bodies, capacity, overload, seconds, seed)
                for overload in (1.3, 2.0)
                for seed in range(1, seeds + 1)
            ]
    save(
        options.out,
        "overload_classes",
        {"classes_s": CLASSES_S, "rows": [asdict(row) for row in rows]},
        lambda figure: draw(figure, rows),
    )
    classes = " and ".join(f"{slo_s * 1000:g}" for slo_s in CLASSES_S)
    show(
        f"halves due after {classes} ms",
        ("capacity", "offered", "goodput", "share %", "in time by class %", "late", "shed", "expired"),
        rows,
        lambda row: (
            *(f"{value:.1f}" for value in (row.capacity_rps, row.offered_rps, row.goodput_rps, 100 * row.share)),
            " / ".join(f"{100 * share:.1f}" for share in row.in_time_by_class),
            *(str(row.outcomes[outcome]) for outcome in ("late", "shed", "expired")),
        ),
    )
    show(
        "its batches; ratios at p50, p90, p99",
        (
            "rows/s",
            "rows",
            "threads",
            "took/predicted",
            "lane/CPU",
            "hand-over ms",
            "late by ms",
            "throttled s",
            "HTTP",
        ),
        rows,
        lambda row: (
            *(f"{value:.2f}" for value in (row.computed_rps, row.batch_size, row.threads)),
            *(" ".join(f"{x:.2f}" for x in those) for those in (row.took_over_predicted, row.lane_over_cpu)),
            f"{row.hand_over_ms:.2f}",
            "-" if row.late_by_ms is None else f"{row.late_by_ms:.1f}",
            *(f"{value:.2f}" for value in (row.throttled_s, row.http_cores)),
        ),
    )


def show(title: str, columns: Sequence[str], rows: Sequence[Row], cells: Callable[[Row], Sequence[str]]) -> None:
    """A table whose rows start with the name of their case."""
    table = new_table(title, [], ["cores", "load", "seed", *columns])
    for row in rows:
        table.add_row(f"{row.cores:g}", f"{row.overload:g}x", str(row.seed), *cells(row))
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
