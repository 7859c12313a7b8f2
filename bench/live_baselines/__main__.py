"""Runs the real autoscalers beside Sponge: one local cluster, one server, one schedule of requests for all.

Compared are fixed sizes, Kubernetes' Horizontal and Vertical Pod Autoscaler, the rules of KPA (Knative) and Themis, and
Sponge. All have the same server with its own dispatch rule, which favours the others: theirs have none that knows
deadlines. Each run starts with fresh pods and is kept in a ledger, so a campaign that was cut off goes on where it was.
Afterwards the same requests run in virtual time.

    python -m bench.live_baselines
    python -m bench.live_baselines --schedules bursts --systems fixed sponge --most 1
    python -m bench.live_baselines --report
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from bench.live_baselines.addons import metrics_server
from bench.live_baselines.campaign import KIND, Piece, pieces, smallest_fixed
from bench.live_baselines.piece import Place, run_piece
from bench.live_baselines.replay import assumed, service_of, start_of
from bench.live_baselines.report import draw, rows_of, table_of, verdicts
from bench.live_baselines.schedules import SCHEDULES, Load, Target
from bench.live_baselines.systems import FIXED, SYSTEMS
from bench.options import arguments, at_least_one, natural, positive
from bench.real_service import Kubectl
from bench.results import save
from bench.serving.ledger import Ledger
from sponge_client.wire import prioritize_process
from sponge_cluster import ConsoleProgress, down, status, up
from sponge_cluster.chart import install_operator
from sponge_core.errors import SpongeError
from sponge_core.latency import LatencyModel
from sponge_profiles.profile import load_profile

NAMES = (FIXED, *SYSTEMS)
SECONDS, SHORT_S = 90.0, 30.0


def options() -> Namespace:
    """The options of the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--systems", nargs="+", choices=NAMES, default=[*NAMES], metavar="NAME")
    parser.add_argument("--schedules", nargs="+", choices=[*SCHEDULES], default=[*SCHEDULES], metavar="NAME")
    parser.add_argument("--seconds", type=positive, default=SECONDS, help=f"of each run (default {SECONDS:g})")
    parser.add_argument("--seed", type=natural, default=1)
    parser.add_argument("--most", type=at_least_one, metavar="N", help="stop after N new runs")
    parser.add_argument("--report", action="store_true", help="no new runs")
    return parser.parse_args()


@contextlib.contextmanager
def place(folder: Path) -> Iterator[Place]:
    """The local cluster with the operator; taken down at the end unless it ran before.

    Args:
        folder: for the logs of the autoscalers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ran_before = status().state != "stopped"
    cluster = up(progress=ConsoleProgress())
    try:
        install_operator(cluster)
        yield Place(cluster, Kubectl(cluster), folder)
    finally:
        if not ran_before:
            down(progress=ConsoleProgress())


def run(ledger: Ledger, target: Target, loads: list[Load], model: LatencyModel, chosen: Namespace) -> None:
    """Does the runs that are missing, and adds each to the ledger. Raises SpongeError."""
    expected = assumed(target, model)
    guesses = {load.name: smallest_fixed(target, load, model, expected) for load in loads}
    todo: Iterator[Piece] = pieces(ledger, target, loads, chosen.systems, chosen.seed, guesses)
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        found: Place | None = None
        has_metrics = False
        for number, piece in enumerate(todo, 1):
            if chosen.most is not None and number > chosen.most:
                return
            if found is None:
                found = stack.enter_context(place(chosen.out / "live_baselines"))
            if piece.system.needs_metrics and not has_metrics:
                stack.enter_context(metrics_server(found.cluster, found.kubectl, found.folder))
                has_metrics = True
            console.print(f"{piece.load.name}: {piece.name} ...", style="dim")
            whole = service_of(target, piece.load, model, expected)
            result = run_piece(
                found, target, piece.system, piece.load, piece.system.service(whole), start_of(piece.system, whole)
            )
            ledger.add(KIND, piece.params, result)
            shown = ("in_time", "mean_cores", "resizes", "started", "restarts", "outcomes", "p99_ms", "lag_p99_ms")
            console.print(json.dumps({name: result[name] for name in shown}), highlight=False)


def main() -> None:
    """Measures what is missing, writes and prints."""
    chosen = options()
    seconds = SHORT_S if chosen.short else chosen.seconds
    target = Target()
    model = load_profile(target.profile).latency_model()
    loads = [SCHEDULES[name](target, seconds, chosen.seed, os.environ) for name in chosen.schedules]
    prioritize_process()
    try:
        ledger = Ledger(chosen.out / "live_baselines.jsonl")
        if not chosen.report:
            run(ledger, target, loads, model, chosen)
    except SpongeError as error:
        sys.exit(f"live_baselines: {error}")
    rows = rows_of(ledger, target, loads, chosen.seed, model, assumed(target, model))
    if not rows:
        sys.exit("live_baselines: no runs yet; leave --report out")
    document = {"seconds": seconds, "seed": chosen.seed, "rows": [row.to_json() for row in rows]}
    save(chosen.out, "live_baselines", document, lambda figure: draw(figure, rows))
    Console(width=None if sys.stdout.isatty() else 180).print(table_of(rows))
    for line in verdicts(rows, target.target):
        print(line)


if __name__ == "__main__":
    main()
