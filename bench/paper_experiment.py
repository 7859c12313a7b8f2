"""The paper's experiment in virtual time: the product's own rule and planner beside the paper's planner.

YOLOv5s (published p99 fit), 4G uplink, 303,600 B a request, 20 requests/s, SLO 1000 ms end to end, 600 s. The network
is charged: a request's deadline is 1000 ms after the client sent it, and it arrives payload/bandwidth later. Both
systems see the same requests. The paper's row is given the true rate, as its prototype is; ours measures it.

    python -m bench.paper_experiment --seeds 3 --arrivals poisson
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sponge_client.traces import load_bandwidth
from sponge_core.planning.paper import PaperPlanner
from sponge_core.queueing import Request
from sponge_core.trace import BandwidthTrace, burst_arrivals, poisson_arrivals
from sponge_profiles.profile import load_profile
from sponge_simulator.engine import Result, Size, simulate
from sponge_simulator.policies import PaperPolicy, SpongePolicy

RATE = 20.0
DURATION_S = 600.0
SLO_S = 1.0
PAYLOAD_BYTES = 303_600
MAX_CORES = 16
MAX_BATCH = 8
MODEL = load_profile("yolov5s-paper").latency_model()


@dataclass(frozen=True, slots=True)
class Row:
    """One policy over all seeds."""

    policy: str
    sent: int
    in_time: int
    late: int
    shed: int
    violations: float  # fraction of all sent
    mean_cores: float
    resizes_per_s: float
    p99_ms: float


def schedule(trace: BandwidthTrace, arrivals: str, seed: int) -> list[Request]:
    """What reaches the server: every request payload/bandwidth after it was sent, in order of arrival."""
    poisson = arrivals == "poisson"
    sent = poisson_arrivals(RATE, DURATION_S, seed) if poisson else burst_arrivals(RATE, DURATION_S)
    arrived = sorted((at + PAYLOAD_BYTES / trace.bandwidth_at(at), at) for at in sent)
    return [Request(i, arrival, at + SLO_S, at) for i, (arrival, at) in enumerate(arrived)]


def run(policy: str, requests: Sequence[Request]) -> Result:
    """One policy on one schedule, starting from the most cores."""
    start = Size(float(MAX_CORES), MAX_BATCH)
    if policy == "paper":
        return simulate(requests, PaperPolicy(MODEL, RATE, SLO_S, MAX_CORES, MAX_BATCH), start, DURATION_S)
    sizes = [1000 * cores for cores in range(1, MAX_CORES + 1)]
    return simulate(requests, SpongePolicy(MODEL, sizes, MAX_BATCH), start, DURATION_S)


def summarise(policy: str, results: Sequence[Result]) -> Row:
    """All seeds of a policy as one row."""
    sent, in_time = sum(r.sent for r in results), sum(r.in_time for r in results)
    return Row(
        policy,
        sent,
        in_time,
        sum(r.late for r in results),
        sum(r.shed for r in results),
        1 - in_time / sent,
        mean(r.mean_cores for r in results),
        mean(r.resizes / r.duration_s for r in results),
        float(np.percentile([x for r in results for x in r.latencies_s], 99)) * 1000,
    )


def paper_decisions(trace: BandwidthTrace) -> tuple[int, float]:
    """The paper's decisions alone, once a second on the trace: infeasible seconds, mean cores (the last plan is
    held)."""
    planner = PaperPlanner(MODEL, MAX_CORES, MAX_BATCH)
    cores: list[int] = []
    infeasible = 0
    for second in range(int(DURATION_S)):
        plan = planner.plan(RATE, SLO_S, PAYLOAD_BYTES / trace.bytes_per_s[second % len(trace.bytes_per_s)])
        infeasible += not plan.feasible
        cores.append(plan.cores if plan.feasible else (cores[-1] if cores else MAX_CORES))
    return infeasible, mean(cores)


def main() -> None:
    """Runs the experiment and prints the table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeded schedules (default 3)")
    parser.add_argument("--arrivals", choices=("poisson", "burst"), default="poisson")
    parser.add_argument(
        "--trace", default="4g", help="a file, `synthetic`, or `4g`: the recorded one if it is there (default)"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    trace = load_bandwidth(options.trace, 1, os.environ)
    if trace is None:
        parser.error("--trace none leaves nothing to experiment with: name a trace or `synthetic`")
    errors = Console(stderr=True)
    rows = []
    seeds = range(1, options.seeds + 1)
    for policy in ("sponge", "paper"):
        results = [
            run(policy, schedule(trace, options.arrivals, seed))
            for seed in track(seeds, description=f"{policy}, seeds", console=errors, transient=True)
        ]
        rows.append(summarise(policy, results))
    infeasible, cores = paper_decisions(trace)
    if options.json:
        policies = [{field: getattr(row, field) for field in Row.__slots__} for row in rows]
        decisions = {"infeasible_s": infeasible, "mean_cores": cores}
        print(json.dumps({"trace": trace.name, "policies": policies, "paper_decisions": decisions}))
        return
    table = Table(title=f"{trace.name}, {options.arrivals} arrivals, {options.seeds} seeds of {DURATION_S:.0f} s")
    for column in ("policy", "sent", "in time", "late", "shed", "violations %", "mean cores", "resizes/s", "p99 ms"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in rows:
        table.add_row(
            row.policy,
            *(f"{value:,}" for value in (row.sent, row.in_time, row.late, row.shed)),
            f"{row.violations * 100:.3f}",
            f"{row.mean_cores:.2f}",
            f"{row.resizes_per_s:.2f}",
            f"{row.p99_ms:.0f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"The paper's decisions once a second on this trace, without a queue: {infeasible} of {DURATION_S:.0f} s"
        f" infeasible, mean {cores:.3f} cores"
    )


if __name__ == "__main__":
    main()
