"""Serves a small BERT with texts of 8 to 400 tokens: with the size of each request known, and without.

Lengths are lognormal (mu 4.0, sigma 0.9), arrivals Poisson, half due after 200 ms and half after 1000 ms. Each server
runs in a CPU cgroup of its own, one after the other, on the same requests. `bench.experiments.sizes` does the same in
virtual time. The last server is the floor: first come, first served, each request alone on one thread.

With --scaled the rates are divided, and the deadlines multiplied, by how much slower this machine is than the one whose
times `bench.experiments.sizes` has. The load is then the same part of the machine.

    python -m bench.live_sizes
    python -m bench.live_sizes --short --scaled
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from bench.bert_sizes import LONGEST, MEAN_LOG, SHORTEST, SPREAD_LOG, WORDS
from bench.experiments.sizes import BERT
from bench.live_server import LiveServer
from bench.options import arguments, at_least_one, positive
from bench.results import BLUE, SOFT, SPONGE, new_table, save
from sponge_client.load import LoadRun
from sponge_client.oip import InferBody, Tensor, encode
from sponge_client.schedule import Schedule, Shot
from sponge_client.wire import precise_loop, prioritize_process
from sponge_profiles.fitting import coefficients
from sponge_workload.arrivals import poisson_arrivals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SLOS_S = (0.2, 1.0)
RATES = (20.0, 30.0, 45.0)
SIZED, BLIND = "python://bench.bert:sized", "python://bench.bert:blind"
SERVERS = {
    "sizes known": (SIZED, "--max-batch", "8"),
    "size-blind": (BLIND, "--max-batch", "8"),
    "one by one": (BLIND, "--max-batch", "1", "--dispatch", "fifo"),
}
"""The source of each server, and its options."""

COLOURS = (SPONGE, SOFT, BLUE)
REFERENCE = round((SHORTEST * LONGEST) ** 0.5)
"""The tokens that the server's profile is for."""

BODIES = 200
QUIET_S = 1.5
NEAR = 0.1
ALL = ("--log-level", "debug", "--warm-up-s", "10")


@dataclass(frozen=True, slots=True)
class Row:
    """One server at one rate, over all seeds."""

    server: str
    rate: float
    tight: float  # fraction of the 200 ms class in time
    loose: float
    goodput_rps: float
    ratio_near: float  # fraction of batches that took 0.9 to 1.1 of what was predicted
    hindsight_near: float  # the same of a formula that is fitted to these batches afterwards
    batch: float  # mean rows


def bodies() -> list[InferBody]:
    """Requests of random tokens."""
    draw = np.random.default_rng(1)
    lengths = np.clip(np.rint(draw.lognormal(MEAN_LOG, SPREAD_LOG, BODIES)), SHORTEST, LONGEST).astype(int)
    return [
        encode([Tensor("ids", "INT64", (1, int(n)), draw.integers(1, WORDS, int(n), np.int64).tobytes())])
        for n in lengths
    ]


def schedule(rate: float, seconds: float, seed: int, slower: float) -> Schedule:
    """The requests that all servers get; on a slower machine, later ones with more time."""
    draw = np.random.default_rng(seed)
    times = poisson_arrivals(rate / slower, seconds, seed)
    slos, texts = draw.integers(0, len(SLOS_S), len(times)), draw.integers(0, BODIES, len(times))
    shots = zip(times, slos.tolist(), texts.tolist(), strict=True)
    return Schedule(tuple(Shot(i, at, slower * SLOS_S[slo], text) for i, (at, slo, text) in enumerate(shots)), seconds)


async def send(server: LiveServer, texts: Sequence[InferBody], planned: Schedule) -> LoadRun:
    """One run, then a pause so that the server empties its queue."""
    load = LoadRun(server.url, server.model, planned, texts, timeout_s=10.0)
    await load.run()
    await asyncio.sleep(QUIET_S)
    return load


def hindsight_near(batches: Sequence[Mapping[str, Any]]) -> float:
    """The fraction of batches within 10 % of a formula by size, fitted to these very batches: what noise permits."""
    took, rows, size, threads = (
        np.array([batch[name] for batch in batches], dtype=float) for name in ("took_ms", "rows", "size", "threads")
    )
    size /= REFERENCE  # so that all columns have about the same scale
    serial = np.stack([np.ones(len(rows)), rows, rows * size, rows * size**2], axis=1)
    design = np.hstack([serial, serial / threads[:, None]])
    off = took / (design @ coefficients(design, np.eye(design.shape[1]), took))
    return float(np.mean(np.abs(off / np.median(off) - 1.0) <= NEAR))


def slower_here(server: LiveServer) -> float:
    """How many times longer a text takes on this machine than `bench.experiments.sizes` says; at least 1."""
    (taken,) = server.events("profile.taken")
    alone_s = float(taken["alone_ms"]) / 1000
    return max(1.0, alone_s / BERT.at(REFERENCE).latency(1, 1))


def measure(name: str, options: Namespace, seeds: int, seconds: float, slower: float | None) -> tuple[list[Row], float]:
    """Runs one server through all rates.

    Args:
        slower: how much slower the machine is; None: the server's profile says it.

    Returns:
        The rows, and how much slower the machine is.
    """
    rows, texts = [], bodies()
    source, *own = SERVERS[name]
    with (
        LiveServer(options.cores, *own, *ALL, model="bert", source=source) as server,
        asyncio.Runner(loop_factory=precise_loop) as runner,
    ):
        slower = slower_here(server) if slower is None else slower
        for rate in options.rates:
            before = len(server.events("batch.done"))
            records = []
            for seed in range(1, seeds + 1):
                records += runner.run(send(server, texts, schedule(rate, seconds, seed, slower))).records
            batches = server.events("batch.done")[before:]
            near = [abs(batch["took_ms"] / batch["predicted_ms"] - 1.0) <= NEAR for batch in batches]
            in_time = [[r.outcome == "in_time" for r in records if r.slo_s == slower * slo_s] for slo_s in SLOS_S]
            goodput = sum(map(sum, in_time)) / seconds / seeds
            tight, loose = (mean(each) for each in in_time)
            batch = mean(batch["rows"] for batch in batches)
            rows.append(Row(name, rate / slower, tight, loose, goodput, mean(near), hindsight_near(batches), batch))
    return rows, slower


def draw(figure: Figure, rows: Sequence[Row]) -> None:
    """Draws both classes in time: a group of bars per rate."""
    axes = figure.subplots(1, 2, sharey=True)
    for each, (which, title) in zip(axes, (("tight", "tight class"), ("loose", "loose class")), strict=True):
        for at, (name, colour) in enumerate(zip(SERVERS, COLOURS, strict=True)):
            own = [row for row in rows if row.server == name]
            places = [place + 0.25 * at for place in range(len(own))]
            each.bar(places, [100 * getattr(row, which) for row in own], 0.25, color=colour, label=name)
            each.set_xticks([place + 0.25 for place in range(len(own))], [f"{row.rate:.3g}/s" for row in own])
        each.set_title(title)
    axes[0].set_ylabel("in time, %")
    axes[1].legend(frameon=False)


def main() -> None:
    """Measures, writes and prints."""
    parser = arguments(__doc__)
    parser.add_argument("--cores", type=positive, default=2.0)
    parser.add_argument("--rates", type=positive, nargs="+", default=RATES)
    parser.add_argument("--seeds", type=at_least_one, default=3)
    parser.add_argument("--seconds", type=positive, default=20.0)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=[*SERVERS], metavar="SERVER")
    parser.add_argument("--scaled", action="store_true", help="load and deadlines as on a machine of the usual speed")
    options = parser.parse_args()
    seeds, seconds = (1, 10.0) if options.short else (options.seeds, options.seconds)
    prioritize_process()
    rows: list[Row] = []
    slower = None if options.scaled else 1.0
    for name in options.servers:
        own, slower = measure(name, options, seeds, seconds, slower)
        rows += own
    tight_ms, loose_ms = (1000 * (slower or 1.0) * slo_s for slo_s in SLOS_S)
    table = new_table(
        f"BERT on {options.cores:g} cores: {seeds} x {seconds:g} s a rate",
        ["server"],
        [
            "rate",
            f"{tight_ms:.0f} ms in time %",
            f"{loose_ms:.0f} ms",
            "goodput/s",
            "batches predicted within 10 %",
            "in hindsight",
            "rows",
        ],
    )
    for row in rows:
        shares = (f"{100 * share:.2f}" for share in (row.tight, row.loose))
        table.add_row(
            row.server,
            f"{row.rate:.3g}",
            *shares,
            f"{row.goodput_rps:.1f}",
            f"{100 * row.ratio_near:.0f}",
            f"{100 * row.hindsight_near:.0f}",
            f"{row.batch:.2f}",
        )
    Console(width=120).print(table)
    document = {"cores": options.cores, "slower": slower, "seeds": seeds, "seconds": seconds}
    document["rows"] = [asdict(row) for row in rows]
    save(options.out, "live_sizes", document, lambda figure: draw(figure, rows))


if __name__ == "__main__":
    main()
