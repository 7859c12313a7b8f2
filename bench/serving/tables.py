"""A campaign's runs as points and Markdown tables; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

from bench.serving.ledger import Run
from bench.serving.outcomes import OUTCOMES
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
        {name: sum(result[name] for result in results) / max(sent, 1) for name in OUTCOMES},
    )


def goodput_table(found: Sequence[Point], mix: Mix) -> str:
    """Systems by loads: in-time answers per second, and their share of what could be had."""
    of_mix = [point for point in found if point.mix == mix.name]
    offered = [f"{mean(p.offered_rps for p in of_mix if p.load == load):.1f}" for load in _loads(of_mix)]
    rows = _by_load(of_mix, lambda point: f"{point.goodput_rps:.1f} ({point.share:.0%})")
    return markdown(["", *_titles(of_mix)], [["offered/s", *offered], *rows])


def cores_table(found: Sequence[Point], mix: Mix) -> str:
    """Systems by loads: cores in use on average."""
    of_mix = [point for point in found if point.mix == mix.name]
    return markdown(["mean cores in use", *_titles(of_mix)], _by_load(of_mix, lambda point: f"{point.cores:.2f}"))


def class_table(found: Sequence[Point], mix: Mix) -> str:
    """Systems by loads: the share of each class in time."""
    of_mix = [point for point in found if point.mix == mix.name]
    names = [name for name in mix.classes if any(name in point.by_class for point in of_mix)]

    def cell(point: Point) -> str:
        return " / ".join(f"{point.by_class[name]:.0%}" if name in point.by_class else "-" for name in names)

    return markdown([" / ".join(names), *_titles(of_mix)], _by_load(of_mix, cell))


def _loads(of_mix: Sequence[Point]) -> list[float]:
    return sorted({point.load for point in of_mix})


def _titles(of_mix: Sequence[Point]) -> list[str]:
    return [f"{load:g} x" for load in _loads(of_mix)]


def _by_load(of_mix: Sequence[Point], cell: Callable[[Point], str]) -> list[list[str]]:
    """A row for each system: its name, and a cell for each load."""
    by = {(point.system, point.load): point for point in of_mix}
    systems = dict.fromkeys(point.system for point in of_mix)
    return [
        [system, *(cell(point) if (point := by.get((system, load))) else "-" for load in _loads(of_mix))]
        for system in systems
    ]


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
