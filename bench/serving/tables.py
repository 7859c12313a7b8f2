"""A campaign's runs as points and Markdown tables; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

from bench.serving.ledger import Run
from bench.serving.schedule import Mix

__all__ = ["Point", "class_table", "cores_table", "goodput_table", "knobs_table", "markdown", "outcome_table", "points"]


@dataclass(frozen=True, slots=True)
class Point:
    """All seeds of one system, mix and load; void runs are left out.

    Attributes:
        least_rps, most_rps: the worst and the best seed's goodput.
        cores: in use on average while requests were sent.
        share: of what could be had, the lesser of the offered load and the capacity measured just before.
        by_class: attainment of each class that had requests.
        outcomes: of all requests of all seeds, as shares.
    """

    system: str
    mix: str
    load: float
    seeds: int
    offered_rps: float
    goodput_rps: float
    least_rps: float
    most_rps: float
    attainment: float
    cores: float
    share: float
    by_class: dict[str, float]
    outcomes: dict[str, float]


def points(runs: Iterable[Run]) -> list[Point]:
    """One point for each system, mix and load, in the order in which they come first."""
    groups: dict[tuple[str, str, float], list[Run]] = defaultdict(list)
    for run in runs:
        if not run["result"]["void"]:
            params = run["params"]
            groups[params["system"], params["mix"], params["load"]].append(run)
    return [_point(*key, group) for key, group in groups.items()]


def _point(system: str, mix: str, load: float, runs: Sequence[Run]) -> Point:
    results = [run["result"] for run in runs]
    goodputs = [float(result["goodput_rps"]) for result in results]
    sent = sum(result["sent"] for result in results)
    classes: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for result in results:
        for name, counts in result["classes"].items():
            classes[name][0] += counts["in_time"]
            classes[name][1] += counts["sent"]
    names = ("in_time", "late", "shed", "rejected_late", "client_timeout", "error")
    return Point(
        system,
        mix,
        load,
        len(runs),
        mean(result["offered_rps"] for result in results),
        mean(goodputs),
        min(goodputs),
        max(goodputs),
        sum(result["in_time"] for result in results) / max(sent, 1),
        mean(run["result"]["cpu_s"] / run["params"]["duration_s"] for run in runs),
        mean(
            g / min(result["offered_rps"], result["capacity_rps"]) for g, result in zip(goodputs, results, strict=True)
        ),
        {name: good / of for name, (good, of) in classes.items() if of},
        {name: sum(result[name] for result in results) / max(sent, 1) for name in names},
    )


def goodput_table(found: Sequence[Point], mix: Mix) -> str:
    """Systems by loads: in-time answers per second, and their share of what could be had."""
    of_mix = [point for point in found if point.mix == mix.name]
    loads = sorted({point.load for point in of_mix})
    by = {(point.system, point.load): point for point in of_mix}
    systems = list(dict.fromkeys(point.system for point in of_mix))
    rows = [["offered/s", *(f"{mean(p.offered_rps for p in of_mix if p.load == load):.1f}" for load in loads)]]
    for system in systems:
        cells = (by.get((system, load)) for load in loads)
        rows.append([system, *(f"{p.goodput_rps:.1f} ({p.share:.0%})" if p else "-" for p in cells)])
    return markdown(["", *(f"{load:g} x" for load in loads)], rows)


def cores_table(found: Sequence[Point], mix: Mix) -> str:
    """Systems by loads: cores in use on average."""
    of_mix = [point for point in found if point.mix == mix.name]
    loads = sorted({point.load for point in of_mix})
    by = {(point.system, point.load): point for point in of_mix}
    rows = []
    for system in dict.fromkeys(point.system for point in of_mix):
        cells = (by.get((system, load)) for load in loads)
        rows.append([system, *(f"{point.cores:.2f}" if point else "-" for point in cells)])
    return markdown(["mean cores in use", *(f"{load:g} x" for load in loads)], rows)


def class_table(found: Sequence[Point], mix: Mix) -> str:
    """Systems by loads: the share of each class in time."""
    of_mix = [point for point in found if point.mix == mix.name]
    loads = sorted({point.load for point in of_mix})
    names = [name for name in mix.classes if any(name in point.by_class for point in of_mix)]
    by = {(point.system, point.load): point for point in of_mix}
    rows = []
    for system in dict.fromkeys(point.system for point in of_mix):
        cells = []
        for load in loads:
            point = by.get((system, load))
            shares = (point.by_class.get(name) for name in names) if point else ()
            cells.append(" / ".join("-" if share is None else f"{share:.0%}" for share in shares) or "-")
        rows.append([system, *cells])
    return markdown([" / ".join(names), *(f"{load:g} x" for load in loads)], rows)


def outcome_table(found: Sequence[Point], mix: Mix, load: float) -> str:
    """Systems by outcomes at one load, in percent of all requests."""
    chosen = [point for point in found if point.mix == mix.name and point.load == load]
    if not chosen:
        return ""
    names = list(chosen[0].outcomes)
    rows = [[p.system, *(f"{p.outcomes[name]:.1%}" for name in names)] for p in chosen]
    return markdown([f"at {load:g} x", *(name.replace("_", " ") for name in names)], rows)


def knobs_table(runs: Iterable[Run]) -> str:
    """Which configuration each system ran with, and at which loads."""
    used: dict[tuple[str, str, str], set[float]] = defaultdict(set)
    for run in runs:
        params = run["params"]
        text = ", ".join(f"{name} {value}" for name, value in params["knobs"].items()) or "nothing to set"
        used[params["system"], params["mix"], text].add(params["load"])
    rows = [
        [system, mix, ", ".join(f"{load:g}" for load in sorted(loads)), text]
        for (system, mix, text), loads in used.items()
    ]
    return markdown(["", "mix", "loads", "configuration"], rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column to the left, figures to the right."""
    lines = [list(head), ["---", *("--:" for _ in head[1:])], *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
