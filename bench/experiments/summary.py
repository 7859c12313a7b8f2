"""From runs to one row a policy, and which of two policies is the better one. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from bench.experiments.campaign import Found
from bench.experiments.catalogue import OURS
from sponge_simulator.comparison import CLAIRVOYANT

__all__ = ["Row", "Spread", "against", "by_variant", "rows"]


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over all seeds, with the least and the most of any."""

    mean: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Row:
    """A policy over all seeds of a variant. `missed_percent.mean` is of all requests together."""

    policy: str
    seeds: int
    sent: int
    missed: int
    missed_percent: Spread
    cores: Spread
    p99_ms: float | None
    resizes_per_min: float
    by_class: dict[str, float]
    each: tuple[tuple[int, float], ...]  # missed and mean cores, by seed


def rows(found: Found) -> list[Row]:
    """One row a policy, in the order of the runs; of one variant."""
    groups: dict[str, list[tuple[float, dict[str, Any]]]] = defaultdict(list)
    for case, result in found:
        groups[case.policy].append((case.variant.duration_s, result))
    return [_row(policy, [r for _, r in runs], runs[0][0]) for policy, runs in groups.items()]


def by_variant(found: Found) -> dict[float, list[Row]]:
    """The rows of each place on a sweep's axis."""
    places: dict[float, Found] = defaultdict(list)
    for case, result in found:
        places[case.variant.at].append((case, result))
    return {at: rows(part) for at, part in sorted(places.items())}


def _row(policy: str, results: Sequence[dict[str, Any]], duration_s: float) -> Row:
    sent, missed = sum(r["sent"] for r in results), sum(r["missed"] for r in results)
    shares = [100 * r["missed"] / r["sent"] if r["sent"] else 0.0 for r in results]
    cores = [r["mean_cores"] for r in results]
    p99s = [r["p99_ms"] for r in results if r["p99_ms"] is not None]
    classes = {name: sum(r["sent_by_class"].get(name, 0) for r in results) for name in results[0]["sent_by_class"]}
    return Row(
        policy,
        len(results),
        sent,
        missed,
        Spread(100 * missed / sent if sent else 0.0, min(shares), max(shares)),
        Spread(fmean(cores), min(cores), max(cores)),
        fmean(p99s) if p99s else None,
        60 * fmean(r.get("resizes", 0) + r.get("started", 0) for r in results) / duration_s,
        {
            name: 100 * sum(r["missed_by_class"].get(name, 0) for r in results) / count
            for name, count in classes.items()
            if count
        },
        tuple((r["missed"], r["mean_cores"]) for r in results),
    )


def against(ours: Row, other: Row) -> str:
    """What ours is to another policy: `better` (no worse in misses and in cores, better in one), `worse` (the reverse),
    `misses more` (on fewer cores), `misses less` (on more cores) or `equal`.
    """
    misses = ours.missed_percent.mean - other.missed_percent.mean
    cores = ours.cores.mean - other.cores.mean
    if misses == cores == 0:
        return "equal"
    if misses <= 0 and cores <= 0:
        return "better"
    if misses >= 0 and cores >= 0:
        return "worse"
    return "misses more" if misses > 0 else "misses less"


def seeds_better(ours: Row, other: Row) -> int:
    """In how many seeds ours is the better one."""
    pairs = zip(ours.each, other.each, strict=True)
    return sum(mine != other and mine[0] <= other[0] and mine[1] <= other[1] for mine, other in pairs)


def baselines(found: Sequence[Row]) -> list[Row]:
    """Those that ours is measured against."""
    return [row for row in found if row.policy not in (*OURS, CLAIRVOYANT)]
