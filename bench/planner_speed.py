"""Measures the speed of the core, compiled and interpreted: single plans, joint plans, decisions, simulations.

python -m bench.planner_speed [--million]
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

import sponge_compiled as compiled
from bench.decision_time import measure, scenes
from bench.options import arguments
from bench.results import SPONGE, new_table, save
from sponge_core.cpu_sharing import Running
from sponge_core.dispatch.decision import Limits
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.forecast import Forecaster
from sponge_core.planning.frontier import Frontier, project_frontier
from sponge_core.planning.joint import Claim, plan_jointly
from sponge_core.planning.projection import ProjectionInput
from sponge_profiles.profile import load_profile
from sponge_simulator.scenario import load_scenario

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES_MILLI = tuple(range(1000, 17000, 1000))
LIMITS = Limits(16, 16, 16.0)
MODEL = load_profile("resnet18").latency_model()
SERVICES = 50


def plan(waiting: int, rate: float, slack_s: tuple[float, float], seed: int) -> tuple[Callable[[], Frontier], int]:
    """A planning input at time 0 and its cores: `waiting` requests are queued, `rate` per second arrived lately."""
    draw = random.Random(seed)
    queue, forecaster = EdfQueue(), Forecaster()
    for number in range(waiting):
        deadline = draw.uniform(*slack_s)
        queue.push(Request(number, deadline - 1.0, deadline))
    for number in range(round(5 * rate)):
        forecaster.observe(-5.0 + number / rate, draw.uniform(0.3, 1.0))
    cores = draw.randint(1, 16)
    running = [Running(1, draw.uniform(0.0, 0.2), draw.uniform(0.2, 1.0)) for _ in range(draw.randint(0, cores))]

    def once() -> Frontier:
        coming = forecaster.forecast(0.0, 1.0)
        given = ProjectionInput(0.0, queue.deadlines, running, coming, float(cores), 0.037, slos=queue.slos)
        return project_frontier(given, SIZES_MILLI, [MODEL], LIMITS)

    return once, cores


def timed(act: Callable[[], object]) -> float:
    """CPU seconds of this thread."""
    began = time.thread_time()
    act()
    return time.thread_time() - began


def planning_s(waiting: int, rate: float, slack_s: tuple[float, float], states: int) -> list[float]:
    """For each state the minimum of three plans, which filters out other work on the machine."""
    found = []
    for seed in range(states):
        once, _ = plan(waiting, rate, slack_s, seed)
        found.append(min(timed(once) for _ in range(3)))
    return found


def joint_s(repeat: int) -> list[float]:
    """Wall-clock seconds to plan a node jointly for services that ask for twice its capacity."""
    claims = []
    for seed in range(SERVICES):
        once, cores = plan(30 + seed, 60.0, (0.05, 0.6), seed)
        claims.append(Claim(once().points, 1000 * cores, weight=1.0 + seed % 3))
    capacity = sum(max(point.cores_milli for point in claim.points) for claim in claims) // 2
    found = []
    for _ in range(repeat):
        began = time.perf_counter()
        plan_jointly(claims, capacity, time.monotonic)
        found.append(time.perf_counter() - began)
    return found


def percentiles_ms(seconds: list[float]) -> dict[str, float]:
    p50, p99 = (float(x) * 1000 for x in np.percentile(seconds, (50, 99)))
    return {"p50_ms": round(p50, 4), "p99_ms": round(p99, 4)}


def simulated(scenario: str, duration_s: float) -> dict[str, Any]:
    """Wall-clock seconds of the whole command."""
    rate = load_scenario(scenario).rate_rps
    command = [sys.executable, "-m", "sponge_cli.main", "simulate", "--scenario", scenario, "--policies", "sponge"]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--duration-s", str(duration_s), "--json"], capture_output=True, text=True, check=True
    )
    took = time.perf_counter() - began
    sent = json.loads(done.stdout)["policies"][0]["sent"]
    return {"scenario": scenario, "rate": rate, "requests": sent, "wall_s": round(took, 2)}


def figures(short: bool, million: bool) -> dict[str, Any]:
    """All measurements with the core as this process runs it."""
    states = 40 if short else 400
    easy = planning_s(5, 20.0, (0.3, 1.0), states)
    decisions = [seconds for scene in scenes() for seconds in measure(scene, 100 if short else 1000)]
    found: dict[str, Any] = {
        "kind": compiled.kind(),
        "plan, 5 waiting, 20/s": percentiles_ms(easy) | {"plans_per_s": round(1 / float(np.mean(easy)))},
        "plan, 200 waiting, 100/s": percentiles_ms(planning_s(200, 100.0, (0.2, 2.0), states)),
        "plan, 200 waiting, overload": percentiles_ms(planning_s(200, 400.0, (0.02, 1.0), states)),
        f"joint plan, {SERVICES} services": percentiles_ms(joint_s(5 if short else 50)),
        "decision, 1000 waiting": percentiles_ms(decisions),
        "simulations": [simulated("paper", 600.0)],
    }
    if million:
        found["simulations"] += [simulated("paper", 50_000.0), simulated("resnet18", 10_000.0)]
    return found


def main() -> None:
    """Measures the compiled and the interpreted core, each in a process of its own; prints, writes JSON and a plot."""
    parser = arguments(__doc__)
    parser.add_argument("--million", action="store_true", help="simulate a million requests, too, compiled")
    parser.add_argument("--here", action="store_true", help="measure in this process, print JSON")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(figures(options.short, options.million)))
        return
    again = [sys.executable, "-m", "bench.planner_speed", "--here"]
    again += ["--short"] * options.short
    ways = []
    for switch in ("1", "0"):
        environment = os.environ | {compiled.SWITCH: switch}
        command = [*again, *["--million"] * (options.million and switch == "1")]
        ways.append(json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout))
    table = new_table("the core's speed", ["what"], [way["kind"] for way in ways])
    rows = [name for name in ways[0] if name not in ("kind", "simulations")]
    for name in rows:
        table.add_row(
            f"{name}, p50 / p99 ms", *(f"{way[name]['p50_ms']:.3f} / {way[name]['p99_ms']:.3f}" for way in ways)
        )
    table.add_row("plans per second and core", *(f"{way[rows[0]]['plans_per_s']:,}" for way in ways))
    for number, run in enumerate(ways[0]["simulations"]):
        label = f"sponge simulate, {run['scenario']}, {run['requests']:,} requests, s"
        took = [way["simulations"][number : number + 1] for way in ways]
        table.add_row(label, *(f"{found[0]['wall_s']:.1f}" if found else "-" for found in took))
    Console(width=120).print(table)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, way in enumerate(ways):
            at = [place + 0.4 * number for place in range(len(rows))]
            colour = SPONGE if way["kind"] == "compiled" else "silver"
            axes.barh(at, [way[name]["p99_ms"] for name in rows], 0.4, color=colour, label=way["kind"])
        axes.set_yticks([place + 0.2 for place in range(len(rows))], rows)
        axes.set_xscale("log")
        axes.set_xlabel("ms, 99th percentile")
        axes.legend()

    save(options.out, "planner_speed", {"ways": ways}, draw)


if __name__ == "__main__":
    main()
