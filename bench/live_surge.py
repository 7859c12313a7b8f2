"""A surge beyond what one pod can do, on a real cluster of two nodes: Sponge and Themis' rule, one after the other.

All have the same server, pods of at most half a core, and three of them at most; Sponge's start with a core where their
node has it. With `sponge-spare` there are at least two, because a pod at its smallest size is a cheap reserve. The rate
rises fourfold at once and falls back. With another native cluster on the machine, run it by
tests/shared/own_machine.sh.

    python -m bench.live_surge
    python -m bench.live_surge --systems sponge --seconds 120 --rate 5
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from bench.live_baselines.piece import Place, run_piece
from bench.live_baselines.replay import assumed, service_of, start_of
from bench.live_baselines.schedules import Load, Target
from bench.live_baselines.systems import SYSTEMS
from bench.options import arguments, natural, positive
from bench.real_service import Kubectl
from bench.results import INK, SPONGE, save
from sponge_client.schedule import Schedule, Shot
from sponge_client.wire import prioritize_process
from sponge_cluster import ConsoleProgress, Workers, down, status, up
from sponge_cluster.chart import install_operator
from sponge_core.errors import SpongeError
from sponge_profiles.profile import load_profile

CLUSTER, WORKERS = "surge", Workers(2, 1.0)
TARGET = Target(least_milli=125)
NAMES = {
    "sponge": SYSTEMS["sponge-hybrid"],
    "sponge-spare": replace(SYSTEMS["sponge-hybrid"], fewest_pods=2),
    "themis": SYSTEMS["themis"],
}
POD_CORES = TARGET.replica_milli / 1000
"""The largest size of a pod."""

TIMES, FROM, UNTIL = 4.0, 0.2, 0.7
"""The rate is so many times as high in this part of the run."""

SECONDS, SHORT_S, RATE_RPS = 100.0, 60.0, 5.0


def surge(rate_rps: float, duration_s: float, seed: int) -> Load:
    """Poisson arrivals at a rate that rises at once and falls back at once."""
    draw = np.random.default_rng(seed)
    parts = ((0.0, FROM, 1.0), (FROM, UNTIL, TIMES), (UNTIL, 1.0, 1.0))
    at = np.concatenate(
        [
            np.sort(draw.uniform(begin, end, draw.poisson(rate_rps * times * (end - begin) * duration_s))) * duration_s
            for begin, end, times in parts
        ]
    )
    shots = tuple(Shot(number, float(when), TARGET.slo_s, number % 4) for number, when in enumerate(at))
    return Load("surge", Schedule(shots, duration_s))


@contextlib.contextmanager
def place(folder: Path) -> Iterator[Place]:
    """The cluster of two nodes with the operator; taken down at the end unless it ran before."""
    folder.mkdir(parents=True, exist_ok=True)
    ran_before = status(CLUSTER).state != "stopped"
    cluster = up(CLUSTER, backend="native", workers=WORKERS, progress=ConsoleProgress())
    try:
        install_operator(cluster)
        yield Place(cluster, Kubectl(cluster), folder)
    finally:
        if not ran_before:
            down(CLUSTER, progress=ConsoleProgress())


def shown(rows: Sequence[dict[str, Any]]) -> Table:
    """The figures as a table."""
    table = Table("system", "missed %", "mean cores", "pods started", "resizes", "cold starts, s", "p99 ms")
    for row in rows:
        cold = ", ".join(f"{took:.1f}" for took in row["cold_starts_s"])
        missed, cores = f"{100 * (1 - row['in_time']):.2f}", f"{row['mean_cores']:.2f}"
        counts = (str(row["started"]), str(row["resizes"]))
        table.add_row(row["system"], missed, cores, *counts, cold, f"{row['p99_ms']}")
    return table


def draw(figure: Figure, rows: Sequence[dict[str, Any]]) -> None:
    """The cores of all pods over time."""
    axes = figure.subplots()
    for row in rows:
        at, cores = zip(*row["steps"], strict=True)
        colour = SPONGE if row["system"].startswith("sponge") else INK
        style = ":" if row["system"] == "sponge" else "-"
        axes.step(at, cores, style, where="post", label=row["system"], color=colour)
    axes.set_xlabel("seconds")
    axes.set_ylabel("cores of all pods")
    axes.legend()


def main() -> None:
    """Runs the systems, writes and prints."""
    parser = arguments(__doc__)
    parser.add_argument("--systems", nargs="+", choices=[*NAMES], default=[*NAMES], metavar="NAME")
    parser.add_argument("--seconds", type=positive, default=SECONDS, help=f"of each run (default {SECONDS:g})")
    parser.add_argument("--rate", type=positive, default=RATE_RPS, help=f"before the surge (default {RATE_RPS:g})")
    parser.add_argument("--seed", type=natural, default=1)
    chosen = parser.parse_args()
    seconds = SHORT_S if chosen.short else chosen.seconds
    load = surge(chosen.rate, seconds, chosen.seed)
    model = load_profile(TARGET.profile).latency_model()
    prioritize_process()
    rows: list[dict[str, Any]] = []
    try:
        with place(chosen.out / "live_surge") as found:
            for name in chosen.systems:
                system = NAMES[name]
                whole = replace(service_of(TARGET, load, model, assumed(TARGET, model)), max_cores=POD_CORES)
                result = run_piece(found, TARGET, system, load, system.service(whole), start_of(system, whole))
                rows.append({"system": name, **{key: value for key, value in result.items() if key != "batches_s"}})
    except SpongeError as error:
        sys.exit(f"live_surge: {error}")
    finally:  # a system that fails loses none before it
        if rows:
            document = {"seconds": seconds, "seed": chosen.seed, "rate_rps": chosen.rate, "times": TIMES, "rows": rows}
            save(chosen.out, "live_surge", document, lambda figure: draw(figure, rows))
            Console().print(shown(rows))


if __name__ == "__main__":
    main()
