"""Tables of experiments as Markdown, with a sentence about each. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.experiments.catalogue import OURS, Experiment
from bench.experiments.decisions import PROFILE, SCENARIO, paper_decisions
from bench.experiments.summary import Row, Spread, against, baselines, seeds_better
from bench.serving.tables import markdown
from sponge_core.planning.paper import PaperPlanner
from sponge_simulator.comparison import CLAIRVOYANT
from sponge_workload.bandwidth import BandwidthTrace

__all__ = ["decisions_table", "overview_table", "policy_table", "published_table", "sweep_table", "verdict"]

PUBLISHED = {
    "sponge-paper": (0.2875, 12.73),
    "fa2": (2.31, 4.63),
    "static-8": (86.7, 8.0),
    "static-16": (0.0, 16.0),
}
"""Percent missed and mean cores of the paper's own runs (Razavi et al., EuroMLSys 2024)."""

PUBLISHED_DECISIONS = (
    (995, 9, 4),
    (980, 9, 5),
    (970, 10, 4),
    (952, 10, 5),
    (945, 11, 4),
    (928, 11, 5),
    (925, 12, 4),
    (908, 12, 5),
    (892, 13, 5),
    (876, 14, 5),
    (864, 15, 5),
    (856, 16, 5),
    (855, None, None),
)
"""From this remaining SLO (ms) on the prototype takes so many cores and this batch; below the last, nothing."""

WORDS = {
    "better": "better",
    "equal": "equal",
    "worse": "**worse**",
    "misses more": "misses more, fewer cores",
    "misses less": "misses less, more cores",
}
"""What ours is to a baseline."""


def policy_table(found: Sequence[Row]) -> str:
    """All policies of one variant, fewest misses first."""
    ours = _ours(found)[0]
    classes = sorted(ours.by_class) if len(ours.by_class) > 1 else []
    head = ["policy", "missed %", *(f"{name} %" for name in classes), "mean cores", "of the bound"]
    body = []
    for row in sorted(found, key=lambda row: (row.policy == CLAIRVOYANT, row.missed_percent.mean, row.cores.mean)):
        is_ours = row.policy in OURS
        judged = "" if row is ours or row.policy == CLAIRVOYANT else WORDS[against(ours, row)]
        if judged == WORDS["better"]:
            judged += f", {seeds_better(ours, row)}/{row.seeds} seeds"
        body.append(
            [
                f"**{row.policy}**" if is_ours else row.policy,
                f"{_percent(row.missed_percent.mean)}{_span(row.missed_percent)}",
                *(_percent(row.by_class[name]) for name in classes),
                f"{row.cores.mean:.2f}{_span(row.cores)}",
                _of_bound(row, found),
                "-" if row.p99_ms is None else f"{row.p99_ms:.0f}",
                f"{row.resizes_per_min:.1f}",
                judged,
            ]
        )
    return markdown([*head, "p99 ms", "changes/min", f"{ours.policy} is"], body)


def verdict(found: Sequence[Row]) -> str:
    """In how far each of ours dominates, as a sentence or two."""
    sentences = []
    for ours in _ours(found):
        others = [row for row in baselines(found) if row.policy != ours.policy]
        judged = {row.policy: against(ours, row) for row in others}
        better = [name for name, word in judged.items() if word == "better"]
        text = (
            f"`{ours.policy}` misses {_percent(ours.missed_percent.mean)} % on {ours.cores.mean:.2f} cores, "
            f"{_of_bound(ours, found)} times the bound. It is no worse in both and better in "
            f"one than {len(better)} of {len(others)} others."
        )
        for word, introduction in (
            ("misses less", "It misses less, on more cores, than"),
            ("misses more", "It misses more, on fewer cores, than"),
            ("worse", "It is beaten by"),
            ("equal", "It is equal to"),
        ):
            names = [row for row in others if judged[row.policy] == word]
            if names:
                listed = ", ".join(
                    f"`{row.policy}` ({_percent(row.missed_percent.mean)} %, {row.cores.mean:.2f})" for row in names
                )
                text += f" {introduction} {listed}."
        sentences.append(text)
    return " ".join(sentences)


def overview_table(found: Mapping[str, Sequence[Row]], experiments: Mapping[str, Experiment]) -> str:
    """One row an experiment: ours, the nearest baseline, and whether all are dominated."""
    body = []
    for name, own in found.items():
        ours, others = _ours(own)[0], baselines(own)
        # The nearest: of those that miss no more than ours and a thousandth, the one with the fewest cores.
        as_good = [row for row in others if row.missed_percent.mean <= ours.missed_percent.mean + 0.1]
        nearest = min(as_good, key=lambda row: row.cores.mean, default=None)
        better = sum(against(ours, row) == "better" for row in others)
        beaten = [row.policy for row in others if against(ours, row) == "worse"]
        body.append(
            [
                experiments[name].title,
                f"{ours.policy}: {_percent(ours.missed_percent.mean)} on {ours.cores.mean:.2f}",
                "none"
                if nearest is None
                else f"{nearest.policy}: {_percent(nearest.missed_percent.mean)} on {nearest.cores.mean:.2f}",
                _of_bound(ours, own),
                f"{better} of {len(others)}",
                ", ".join(beaten) or "none",
            ]
        )
    head = ["experiment", "ours: missed % on cores", "cheapest that misses no more than 0.1 points more"]
    return markdown([*head, "ours / bound", "ours is better than", "beaten by"], body)


def published_table(poisson: Sequence[Row], burst: Sequence[Row]) -> str:
    """The paper's published rows beside ours."""
    body = []
    ours = [row.policy for row in _ours(poisson)]
    for policy in (*ours, *PUBLISHED, CLAIRVOYANT):
        cells = [f"{missed:g} on {cores:g}" for missed, cores in (PUBLISHED[policy],)] if policy in PUBLISHED else [""]
        for found in (burst, poisson):
            row = next(row for row in found if row.policy == policy)
            cells.append(f"{_percent(row.missed_percent.mean)} on {row.cores.mean:.2f}")
        body.append([f"**{policy}**" if policy in OURS else policy, *cells])
    return markdown(["missed % on mean cores", "published", "here, bursts", "here, Poisson"], body)


def decisions_table(trace: BandwidthTrace) -> str:
    """The paper's decisions, published and decided now, and what they come to on the trace."""
    kind = SCENARIO.classes[0]
    planner = PaperPlanner(PROFILE.latency_model(), int(SCENARIO.cores.max), SCENARIO.max_batch)
    body, same = [], 0
    for left_ms, cores, batch in PUBLISHED_DECISIONS:
        plan = planner.plan(SCENARIO.rate_rps, kind.slo_ms / 1000, (kind.slo_ms - left_ms) / 1000)
        decided = (plan.cores, plan.batch) if plan.feasible else (None, None)
        same += decided == (cores, batch)
        published, now = (f"{c}, {b}" if c else "infeasible" for c, b in ((cores, batch), decided))
        body.append([str(left_ms), published, now])
    infeasible, mean_cores = paper_decisions(trace)
    return (
        markdown(["remaining SLO, ms", "published: cores, batch", "decided here"], body)
        + f"\n\n{same} of {len(PUBLISHED_DECISIONS)} rows are the same. "
        f"Once a second over {SCENARIO.duration_s:.0f} s of {trace.name}: {infeasible} s infeasible, "
        f"{mean_cores:.3f} cores on average."
    )


def sweep_table(found: Mapping[float, Sequence[Row]], axis: str) -> str:
    """Places by policies: percent missed on mean cores."""
    policies = [row.policy for row in next(iter(found.values()))]
    body = [
        [f"{at:g}", *(f"{_percent(row.missed_percent.mean)} on {row.cores.mean:.2f}" for row in own)]
        for at, own in found.items()
    ]
    return markdown([axis, *policies], body)


def _ours(found: Sequence[Row]) -> list[Row]:
    return [row for row in found if row.policy in OURS]


def _of_bound(row: Row, found: Sequence[Row]) -> str:
    """Mean cores over those of the bound, which is 0 where nothing was asked of a service that may be parked."""
    bound = next(each.cores.mean for each in found if each.policy == CLAIRVOYANT)
    return f"{row.cores.mean / bound:.2f}" if bound else "-"


def _percent(value: float) -> str:
    """Three digits behind the point at most, and no zero that is none."""
    if value < 0.001:
        return "<0.001" if value else "0"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _span(spread: Spread) -> str:
    """The range over the seeds where there is one."""
    return f" ({spread.least:.2f}-{spread.most:.2f})" if spread.most - spread.least >= 0.005 else ""
