"""Serves a small BERT with texts of 8 to 400 tokens: with the size of each request known, and without.

Lengths are lognormal (mu 4.0, sigma 0.9), arrivals Poisson, half due after 200 ms and half after 1000 ms. Each server
runs in a CPU cgroup of its own, one after the other, on the same requests. `bench.experiments.sizes` does the same in
virtual time.

    python -m bench.live_sizes
    python -m bench.live_sizes --short --cores 1.5
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.bert import LONGEST, SHORTEST, VOCABULARY
from bench.live_server import LiveServer
from bench.results import SOFT, SPONGE, arguments, save
from sponge_client.load import LoadRun
from sponge_client.oip import InferBody, Tensor, encode
from sponge_client.schedule import Schedule, Shot
from sponge_client.wire import precise_loop, prioritize_process
from sponge_workload.arrivals import poisson_arrivals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SLOS_S = (0.2, 1.0)
RATES = (20.0, 30.0, 45.0)
SERVERS = {"sizes known": "python://bench.bert:sized", "size-blind": "python://bench.bert:blind"}
BODIES = 200
QUIET_S = 1.5


@dataclass(frozen=True, slots=True)
class Row:
    """One server at one rate, over all seeds."""

    server: str
    rate: float
    tight: float  # fraction of the 200 ms class in time
    loose: float
    goodput_rps: float
    ratio_near: float  # fraction of batches that took 0.9 to 1.1 of what was predicted
    batch: float  # mean rows


def bodies() -> list[InferBody]:
    """Requests of random tokens."""
    draw = np.random.default_rng(1)
    lengths = np.clip(np.rint(draw.lognormal(4.0, 0.9, BODIES)), SHORTEST, LONGEST).astype(int)
    return [
        encode([Tensor("ids", "INT64", (1, int(n)), draw.integers(1, VOCABULARY, int(n), np.int64).tobytes())])
        for n in lengths
    ]


def schedule(rate: float, seconds: float, seed: int) -> Schedule:
    """The requests that both servers get."""
    draw = np.random.default_rng(seed)
    times = poisson_arrivals(rate, seconds, seed)
    slos, texts = draw.integers(0, len(SLOS_S), len(times)), draw.integers(0, BODIES, len(times))
    shots = zip(times, slos.tolist(), texts.tolist(), strict=True)
    return Schedule(tuple(Shot(i, at, SLOS_S[slo], text) for i, (at, slo, text) in enumerate(shots)), seconds)


async def send(server: LiveServer, texts: Sequence[InferBody], planned: Schedule) -> LoadRun:
    """One run, then a pause so that the server empties its queue."""
    load = LoadRun(server.url, server.model, planned, texts, timeout_s=5.0)
    await load.run()
    await asyncio.sleep(QUIET_S)
    return load


def measure(name: str, cores: float, rates: Sequence[float], seconds: float, seeds: int) -> list[Row]:
    """Runs one server through all rates."""
    rows, texts = [], bodies()
    options = ("--max-batch", "8", "--log-level", "debug", "--warm-up-s", "10")
    with (
        LiveServer(cores, *options, model="bert", source=SERVERS[name]) as server,
        asyncio.Runner(loop_factory=precise_loop) as runner,
    ):
        for rate in rates:
            before = len(server.events("batch.done"))
            records = []
            for seed in range(1, seeds + 1):
                records += runner.run(send(server, texts, schedule(rate, seconds, seed))).records
            batches = server.events("batch.done")[before:]
            near = [0.9 <= batch["took_ms"] / batch["predicted_ms"] <= 1.1 for batch in batches]
            in_time = {slo_s: [r.outcome == "in_time" for r in records if r.slo_s == slo_s] for slo_s in SLOS_S}
            goodput = sum(map(sum, in_time.values())) / seconds / seeds
            batch = mean(batch["rows"] for batch in batches)
            tight, loose = (mean(in_time[slo_s]) for slo_s in SLOS_S)
            rows.append(Row(name, rate, tight, loose, goodput, mean(near), batch))
    return rows


def draw(figure: Figure, rows: Sequence[Row]) -> None:
    """Draws both classes in time: a group of bars per rate."""
    axes = figure.subplots(1, 2, sharey=True)
    for each, (which, title) in zip(axes, (("tight", "due after 200 ms"), ("loose", "due after 1000 ms")), strict=True):
        for at, (name, colour) in enumerate(zip(SERVERS, (SPONGE, SOFT), strict=True)):
            own = [row for row in rows if row.server == name]
            places = [place + 0.35 * at for place in range(len(own))]
            each.bar(places, [100 * getattr(row, which) for row in own], 0.35, color=colour, label=name)
            each.set_xticks([place + 0.175 for place in range(len(own))], [f"{row.rate:g}/s" for row in own])
        each.set_title(title)
    axes[0].set_ylabel("in time, %")
    axes[1].legend(frameon=False)


def main() -> None:
    """Measures, writes and prints."""
    parser = arguments(__doc__)
    parser.add_argument("--cores", type=float, default=2.0)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    seeds, seconds = (1, 10.0) if options.short else (options.seeds, options.seconds)
    prioritize_process()
    rows = [row for name in SERVERS for row in measure(name, options.cores, options.rates, seconds, seeds)]
    table = Table(title=f"BERT on {options.cores:g} cores: {seeds} x {seconds:g} s a rate")
    for column in (
        "server",
        "rate",
        "200 ms in time %",
        "1000 ms",
        "goodput/s",
        "batches predicted within 10 %",
        "rows",
    ):
        table.add_column(column, justify="left" if column == "server" else "right")
    for row in rows:
        shares = (f"{100 * share:.2f}" for share in (row.tight, row.loose))
        table.add_row(
            row.server,
            f"{row.rate:g}",
            *shares,
            f"{row.goodput_rps:.1f}",
            f"{100 * row.ratio_near:.0f}",
            f"{row.batch:.2f}",
        )
    Console(width=120).print(table)
    document = {"cores": options.cores, "seeds": seeds, "seconds": seconds, "rows": [asdict(row) for row in rows]}
    save(options.out, "live_sizes", document, lambda figure: draw(figure, rows))


if __name__ == "__main__":
    main()
