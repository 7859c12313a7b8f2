"""Overhead of a server over the model's own time: single requests, then saturation, beside the bare loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.serving.campaign import Plan, capacity_of, tuned
from bench.serving.ledger import Ledger
from bench.serving.measure import bare, closed_loop, warm_up
from bench.serving.servers import serving

__all__ = ["OVERHEAD_S", "measure_overhead"]

OVERHEAD_S = 75.0
"""Approximate time per system."""

ONE_AT_A_TIME_S = 6.0
THINK_S = 0.03
SATURATED_S = 8.0
CLIENTS = 16
BARE_S = 3.0


def measure_overhead(ledger: Ledger, plan: Plan, folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Measures each system that the campaign has not measured yet. Yields (system, figures).

    For single requests every system computes on one thread, as Sponge does for loose deadlines. The difference from the
    bare loop on one thread is the server's overhead. For saturation it runs as tuned for the lightest load, beside the
    bare loop in the shape of the capacity. Both loops are measured again next to each system.
    """
    best = capacity_of(ledger, plan)
    for name in plan.systems:
        knobs = tuned(ledger, plan, name, plan.mixes[0], min(plan.loads))
        params = {**plan.runs, "system": name, "version": plan.system(name).version, "knobs": dict(knobs)}
        if ledger.find("overhead", params):
            continue
        (floor,) = bare(plan.served, plan.cores, 1, 1, [1], BARE_S)
        single = {name: 1 for name in ("processes", "lanes", "threads") if name in knobs}
        with serving(plan.system(name), {**knobs, **single}, plan.cores, folder / f"{name}.log") as server:
            warm_up(server)
            alone = closed_loop(server, 1, ONE_AT_A_TIME_S, THINK_S)
        (full,) = bare(plan.served, plan.cores, best["processes"], best["threads"], [best["batch"]], BARE_S)
        with serving(plan.system(name), knobs, plan.cores, folder / f"{name}.log") as server:
            warm_up(server)
            saturated = closed_loop(server, CLIENTS, SATURATED_S)
        result = {
            "p50_ms": alone["p50_ms"],
            "p99_ms": alone["p99_ms"],
            "bare_p50_ms": floor["batch_p50_ms"],
            "bare_p99_ms": floor["batch_p99_ms"],
            "saturated_rps": saturated["throughput_rps"],
            "saturated_failed": saturated["failed"],
            "bare_rps": full["rows_per_s"],
        }
        ledger.add("overhead", params, result)
        yield name, result
