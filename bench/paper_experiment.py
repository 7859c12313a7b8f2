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
from dataclasses import asdict
from statistics import mean

from rich.console import Console
from rich.progress import track
from rich.table import Table

from sponge_client.traces import load_arrivals, load_bandwidth
from sponge_core.planning.paper import PaperPlanner
from sponge_core.trace import BandwidthTrace
from sponge_profiles.profile import load_profile
from sponge_simulator.comparing import bound, pooled, run_policy
from sponge_simulator.scenario import load_scenario

SCENARIO = load_scenario("paper")
PROFILE = load_profile(SCENARIO.profile)
POLICIES = ("sponge", "sponge-paper")


def paper_decisions(trace: BandwidthTrace) -> tuple[int, float]:
    """The paper's decisions alone, once a second on the trace: infeasible seconds, mean cores (the last plan is
    held)."""
    kind = SCENARIO.classes[0]
    planner = PaperPlanner(PROFILE.latency_model(), int(SCENARIO.cores.max), SCENARIO.max_batch)
    cores: list[int] = []
    infeasible = 0
    for second in range(int(SCENARIO.duration_s)):
        network_s = kind.payload_bytes / trace.bytes_per_s[second % len(trace.bytes_per_s)]
        plan = planner.plan(SCENARIO.rate_rps, kind.slo_ms / 1000, network_s)
        infeasible += not plan.feasible
        cores.append(plan.cores if plan.feasible else (cores[-1] if cores else int(SCENARIO.cores.max)))
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
    schedules = {
        seed: SCENARIO.requests(
            load_arrivals(options.arrivals, SCENARIO.rate_rps, SCENARIO.duration_s, seed, os.environ), trace, seed
        )
        for seed in range(1, options.seeds + 1)
    }
    rows = []
    for policy in POLICIES:
        each = track(schedules, description=f"{policy}, seeds", console=Console(stderr=True), transient=True)
        rows.append(pooled([run_policy(policy, SCENARIO, PROFILE, schedules[s], s, exact=True) for s in each]))
    rows.append(bound(SCENARIO, PROFILE, list(schedules.values())))
    infeasible, cores = paper_decisions(trace)
    if options.json:
        decisions = {"infeasible_s": infeasible, "mean_cores": cores}
        policies = [asdict(row) for row in rows]
        print(json.dumps({"trace": trace.name, "policies": policies, "paper_decisions": decisions}))
        return
    table = Table(title=f"{trace.name}, {options.arrivals} arrivals, {options.seeds} x {SCENARIO.duration_s:.0f} s")
    for column in ("policy", "sent", "in time", "late", "shed", "violations %", "mean cores", "resizes/s", "p99 ms"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in rows:
        table.add_row(
            row.policy,
            *(f"{value:,}" for value in (row.sent, row.in_time, row.late, row.shed)),
            f"{row.violations * 100:.3f}",
            f"{row.mean_cores:.2f}",
            f"{row.resizes / SCENARIO.duration_s / options.seeds:.2f}",
            "-" if row.p99_ms is None else f"{row.p99_ms:.0f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"The paper's decisions once a second on this trace, without a queue: "
        f"{infeasible} of {SCENARIO.duration_s:.0f} s infeasible, mean {cores:.3f} cores"
    )


if __name__ == "__main__":
    main()
