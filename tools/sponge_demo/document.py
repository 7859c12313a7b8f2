"""The document that the live page and the report draw, and that `results.json` keeps; pure.

It holds plain JSON values. Everything is computed and worded here: the page only draws.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from sponge_core.latency import LatencyModel
from sponge_core.quantities import cores_text
from sponge_demo.recording import MBIT, Figures, Run, mean_milli, series_of
from sponge_demo.scenario import Scenario
from sponge_demo.statics import smallest_good
from sponge_demo.workload import Workload
from sponge_workload.bandwidth import BandwidthTrace

__all__ = ["Progress", "Story", "build_document", "cores_phrase", "fixed_percents", "verdict"]

State = Literal["preparing", "running", "done", "failed"]


@dataclass(slots=True)
class Story:
    """A session so far.

    Attributes:
        uplink: as replayed, from each run's start on.
        uplink_from_s: where in its recording that is.
        backend: what the demo runs on, in words.
        workload: the requests of each run; None until the machine has been measured.
        profile: the latency profile that the server plans with; None until it is known.
        figures: of the runs that have ended, in the order of `runs`.
        report: path of the report once it is written.
        details: names and values of what one needs to know to repeat the demo.
    """

    scenario: Scenario
    uplink: BandwidthTrace
    uplink_from_s: float
    backend: str
    workload: Workload | None = None
    profile: LatencyModel | None = None
    runs: list[Run] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)
    report: str | None = None
    details: list[tuple[str, str]] = field(default_factory=list)

    @property
    def scheduled(self) -> int:
        """Requests of one run; 0 until that is known."""
        return len(self.workload.arrivals) if self.workload else 0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a session stands. `share` is 0 to 1; `left` says in words how long it will still take, or nothing."""

    state: State
    phase: str
    share: float = 0.0
    left: str = ""


def build_document(story: Story, progress: Progress, now: float) -> dict[str, Any]:
    """The document at `now` (epoch seconds)."""
    scenario = story.scenario
    return {
        "state": progress.state,
        "phase": progress.phase,
        "progress": round(progress.share, 4),
        "left": progress.left,
        "headline": _headline(story),
        "scenario": {
            "duration_s": scenario.duration_s,
            "slo_ms": scenario.slo_s * 1000,
            "target_percent": scenario.target * 100,
            "max_cores": scenario.max_milli / 1000,
            "max_uplink_mbit": _best_mbit(story),
        },
        "arrivals": _arrivals(story),
        "profile": asdict(story.profile) if story.profile is not None else None,
        "runs": [_run(story, index, now) for index in range(len(story.runs))],
        "verdict": verdict(story),
        "report": story.report,
        "details": [list(detail) for detail in story.details],
    }


def fixed_percents(story: Story) -> dict[int, float]:
    """Percent in time of each fixed size that has been run, by millicores."""
    ended = zip(story.runs, story.figures, strict=False)
    return {run.static_milli: figures.in_time_percent for run, figures in ended if run.static_milli is not None}


def verdict(story: Story) -> str:
    """The comparison in a few sentences; empty before Sponge's run has ended."""
    if not story.figures:
        return ""
    target = story.scenario.target * 100
    sponge = story.figures[0]
    text = f"Sponge answered {sponge.in_time_percent:.2f} % in time with {sponge.mean_cores:.2f} cores on average."
    lost = {
        run.static_milli: figures.sent - figures.in_time
        for run, figures in zip(story.runs, story.figures, strict=False)
        if run.static_milli is not None
    }
    tried = fixed_percents(story)
    if tried:
        text += _against_fixed(story, tried, lost, target)
    if story.scheduled and all(figures.sent == story.scheduled for figures in story.figures):
        text += f" Each of the {story.scheduled} requests of every run is accounted for."
    return text


def _against_fixed(story: Story, tried: dict[int, float], lost: dict[int, int], target: float) -> str:
    good = smallest_good(tried, target)
    if good is None:
        largest = max(tried)
        text = f" A fixed {cores_phrase(largest)} came to {tried[largest]:.2f} %"
        return text + (f", and no fixed size that ran to {target:g} %." if len(tried) > 1 else ".")
    bad = max((milli for milli, percent in tried.items() if percent < target and milli < good), default=None)
    exact = bad is not None and good - bad == story.scenario.step_milli
    ratio = story.figures[0].mean_cores / (good / 1000)
    text = f" That is {100 * ratio:.0f} % of the {cores_phrase(good)} of "
    text += f"{'the smallest' if exact else 'a'} fixed size that keeps {target:g} %."
    if bad is not None:
        text += f" {'The next smaller size' if exact else 'A smaller size'}, {cores_phrase(bad)}, answered "
        text += f"{tried[bad]:.2f} % in time: it lost {_amount(str(lost[bad]), 'request')}."
    return text


def cores_phrase(milli: int) -> str:
    """A size in words: 1 core, 0.75 cores."""
    return _amount(cores_text(milli), "core")


def _amount(number: str, noun: str) -> str:
    return f"{number} {noun}" if number == "1" else f"{number} {noun}s"


def _best_mbit(story: Story) -> float:
    """The uplink's best second of a run."""
    return max(story.uplink.bandwidth_at(second + 0.5) for second in range(int(story.scenario.duration_s))) / MBIT


def _headline(story: Story) -> str:
    scenario, workload = story.scenario, story.workload
    rate = "Requests"
    if workload is not None and workload.rates_rps:
        rate = f"{min(workload.rates_rps):.1f} to {max(workload.rates_rps):.1f} requests/s, with bursts,"
    return (
        f"{scenario.model}: {rate} of {scenario.payload_bytes / 1000:g} kB over a 4G uplink, each due "
        f"{scenario.slo_s * 1000:g} ms after it was sent. {story.backend[:1].upper()}{story.backend[1:]}."
    )


def _arrivals(story: Story) -> dict[str, list[float]]:
    """For each second of a run: the requests that are sent, and the rate behind them."""
    if story.workload is None:
        return {"sent": [], "rate": []}
    sent = [0.0] * int(story.scenario.duration_s)
    for at in story.workload.arrivals:
        sent[min(int(at), len(sent) - 1)] += 1
    return {"sent": sent, "rate": list(story.workload.rates_rps)}


def _run(story: Story, index: int, now: float) -> dict[str, Any]:
    run = story.runs[index]
    figures = story.figures[index] if index < len(story.figures) else None
    return {
        "name": run.name,
        "static": run.static_milli is not None,
        "series": series_of(run, story.scenario.duration_s, story.uplink, now).as_dict(),
        "figures": figures.as_dict() if figures else None,
        "now": _now(story, run, now),
    }


def _now(story: Story, run: Run, now: float) -> dict[str, Any]:
    """The figures so far, for the tiles."""
    scenario = story.scenario
    start = run.started_at if run.started_at is not None else now
    end = min(now, start + scenario.duration_s)
    milli = mean_milli(run.samples, start, end) if end > start else None
    in_time = sum(record.outcome == "in_time" for record in run.records)
    answered = [record.latency_s for record in run.records if record.status == 200]
    return {
        "cores": run.samples[-1].cores_milli / 1000 if run.samples else None,
        "mean_cores": milli / 1000 if milli is not None else None,
        "in_time_percent": 100 * in_time / len(run.records) if run.records else None,
        "p99_ms": float(np.percentile(answered, 99)) * 1000 if answered else None,
        "ended": len(run.records),
        "scheduled": story.scheduled,
        "uplink_mbit": story.uplink.bandwidth_at(max(0.0, end - start)) / MBIT,
    }
