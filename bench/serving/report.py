"""Writes the report of a campaign into one folder: `report.md`, an HTML page, and the plots as SVG and PNG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.pages import as_page
from bench.results import save
from bench.serving import plots, tables
from bench.serving.campaign import Plan, capacity_of
from bench.serving.ledger import Ledger, Run
from bench.serving.schedule import MIXES, Mix
from sponge_core.errors import SpongeError

__all__ = ["write_report"]

_OURS = re.compile(r"^\| (sponge\b[^|]*?) \|", re.MULTILINE)


def write_report(ledger: Ledger, plan: Plan, folder: Path) -> Path:
    """Writes the report into `folder` and returns the path of the page. Raises SpongeError when there are no runs."""
    runs = [run for run in ledger.of_kind("goodput", **plan.runs) if _asked(run, plan)]
    if not runs:
        raise SpongeError(f"campaign {plan.name!r} has no goodput runs yet: run `goodput` first")
    best = capacity_of(ledger, plan)
    capacity = float(best["rows_per_s"])
    found = tables.points(runs)
    parts = [f"# Serving benchmark, campaign {plan.name}", _how(plan, runs, best)]
    for mix in (MIXES[name] for name in plan.mixes if any(point.mix == name for point in found)):
        parts += _of_mix(found, mix, capacity, folder)
    defaults = tables.points(ledger.of_kind("defaults", **plan.runs))
    for mix in (MIXES[name] for name in plan.mixes if any(point.mix == name for point in defaults)):
        parts += [f"## With default settings: {mix.title}", tables.goodput_table(defaults, mix)]
    parts += _overhead(ledger, plan)
    parts += _cores(ledger, plan)
    parts += ["## Configurations", tables.knobs_table(runs)]
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(part for part in parts if part) + "\n"
    (folder / "report.md").write_text(text)
    page = folder / "report.html"
    page.write_text(as_page(_OURS.sub(r"| **\1** |", text), "Serving benchmark", folder))  # bold rows stand out
    return page


def _asked(run: Run, plan: Plan) -> bool:
    params = run["params"]
    return params["system"] in plan.systems and params["mix"] in plan.mixes and params["load"] in plan.loads


def _how(plan: Plan, runs: Sequence[Run], best: dict[str, Any]) -> str:
    first = runs[0]["params"]
    checks = [float(run["result"]["capacity_rps"]) for run in runs]
    void = sum(run["result"]["void"] for run in runs)
    wrong = sum(run["result"]["wrong"] for run in runs)
    seeds = len({run["params"]["seed"] for run in runs})
    measured_s = first["duration_s"] - first["warmup_s"]
    workload, runtime = plan.served.workload, plan.served.runtime
    slower = f" Deadlines are {first['slower']:.2f} times those of the mix." if first["slower"] > 1 else ""
    return (
        f"Of {workload.title}, each system with all its processes under one limit of {plan.cores:g} cores; open loop, "
        f"{seeds} seeds of {measured_s:g} s at each load.{slower} "
        f"Capacity: {best['rows_per_s']:.1f} {workload.unit}/s by {runtime} alone ({best['processes']} processes x "
        f"{best['threads']} threads, batch {best['batch']}), {min(checks):.1f} to {max(checks):.1f} when measured "
        "again before each start of a server. In brackets: the share of the lesser of offered load and that capacity. "
        f"{len(runs)} runs, {void} void for a late sender, {wrong} wrong answers."
    )


def _of_mix(found: Sequence[tables.Point], mix: Mix, capacity: float, folder: Path) -> list[str]:
    document = {"points": [{name: getattr(p, name) for name in tables.Point.__slots__} for p in found]}
    names = (f"goodput-{mix.name}", f"classes-{mix.name}")
    save(folder, names[0], document, partial(plots.draw_goodput, found=found, mix=mix, capacity_rps=capacity))
    save(folder, names[1], document, partial(plots.draw_classes, found=found, mix=mix))
    loads = sorted({point.load for point in found if point.mix == mix.name})
    return [
        f"## Goodput: {mix.title}",
        f"![goodput]({names[0]}.svg)",
        tables.goodput_table(found, mix),
        f"![classes]({names[1]}.svg)",
        tables.class_table(found, mix),
        tables.cores_table(found, mix),
        tables.outcome_table(found, mix, loads[-1]),
    ]


def _overhead(ledger: Ledger, plan: Plan) -> list[str]:
    runs = ledger.of_kind("overhead", **plan.runs)
    if not runs:
        return []
    head = ["", "p50 ms", "p99 ms", "p50 added", "p99 added", "saturated/s", "of the bare loop"]
    rows = []
    for run in runs:
        result = run["result"]
        rows.append(
            [
                run["params"]["system"],
                f"{result['p50_ms']:.1f}",
                f"{result['p99_ms']:.1f}",
                f"{result['p50_ms'] - result['bare_p50_ms']:.1f}",
                f"{result['p99_ms'] - result['bare_p99_ms']:.1f}",
                f"{result['saturated_rps']:.1f}",
                f"{result['saturated_rps'] / result['bare_rps']:.0%}",
            ]
        )
    return ["## Overhead: single requests, then saturation", tables.markdown(head, rows)]


def _cores(ledger: Ledger, plan: Plan) -> list[str]:
    runs = ledger.of_kind("cores", **{name: value for name, value in plan.runs.items() if name != "cores"})
    if not runs:
        return []
    by_system: dict[str, list[Run]] = {}
    for run in runs:
        by_system.setdefault(run["params"]["system"], []).append(run)
    rows = []
    for system, own in by_system.items():
        good = [run for run in own if run["result"]["attainment"] >= run["params"]["target"]]
        shown = min(good or own, key=lambda run: (float(run["result"]["mean_cores"]), -run["result"]["attainment"]))
        note = "" if good else ", not reached"
        form = "resized live" if shown["params"]["cores"] is None else "fixed"
        rows.append(
            [f"{system}, {form}", f"{shown['result']['mean_cores']:.2f}{note}", f"{shown['result']['attainment']:.2%}"]
        )
    target = runs[0]["params"]["target"]
    head = ["", f"mean cores for {target:.0%} in time", "in time"]
    return ["## Cores under a varying load", tables.markdown(head, rows)]
