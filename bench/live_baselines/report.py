"""The table, the document and the plot: each live run beside the same run in virtual time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.box import MARKDOWN
from rich.table import Table

from bench.live_baselines.campaign import KIND, fixed_milli
from bench.live_baselines.replay import Seen, Virtual, replay, seen_in, with_own_starts
from bench.live_baselines.schedules import Load, Target
from bench.live_baselines.systems import FIXED, SYSTEMS, System, fixed
from bench.results import BAD, INK, SOFT, SPONGE, new_table
from bench.serving.ledger import Ledger
from sponge_core.latency import LatencyModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Row", "best_of", "draw", "rows_of", "table_of", "verdicts"]

OURS = "sponge"

CHANCES = 5
"""Runs in virtual time beside each live one, of which the median by cores is shown: they differ in the durations of
batches and resizes, and a decision may be close."""


@dataclass(frozen=True, slots=True)
class Row:
    """One system under one schedule; `virtual` is the same in the simulator."""

    schedule: str
    system: str
    settings: str
    live: Mapping[str, Any]
    virtual: Virtual

    @property
    def is_ours(self) -> bool:
        return self.system.startswith(OURS)

    @property
    def cores(self) -> float:
        return float(self.live["mean_cores"])

    @property
    def in_time(self) -> float:
        return float(self.live["in_time"])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def _system(name: str) -> System:
    return fixed(fixed_milli(name)) if name.startswith(FIXED) else SYSTEMS[name]


def rows_of(
    ledger: Ledger, target: Target, loads: Sequence[Load], seed: int, model: LatencyModel, otherwise: Seen
) -> list[Row]:
    """Every run of the ledger under these schedules, with its counterpart in virtual time.

    The simulator is told what the live runs of a schedule have shown of batches and resizes, and of a run with new pods
    how long these took to start.
    """
    rows = []
    for load in loads:
        runs = ledger.of_kind(
            KIND, schedule=load.name, seconds=load.schedule.duration_s, seed=seed, target=asdict(target)
        )
        seen = seen_in([run["result"] for run in runs], otherwise)
        for run in runs:
            name = run["params"]["system"]
            system = _system(name)
            live = {key: value for key, value in run["result"].items() if key not in ("batches_s", "resizes_s")}
            own, scraped_s = with_own_starts(seen, live), live.get("scraped_s")
            chances = [replay(target, load, system, model, own, seed + n, scraped_s) for n in range(CHANCES)]
            virtual = sorted(chances, key=lambda run: run.mean_cores)[CHANCES // 2]
            rows.append(Row(load.name, name, system.settings, live, virtual))
    return rows


def best_of(rows: Sequence[Row], target: float) -> Row | None:
    """The system other than ours with the fewest cores that keeps the target; None if none does."""
    kept = [row for row in rows if not row.is_ours and row.in_time >= target]
    return min(kept, key=lambda row: row.cores, default=None)


def table_of(rows: Sequence[Row]) -> Table:
    """One line for each run; what it prints is Markdown, too."""
    figures = ["in time %", "by class", "cores", "resizes", "started", "restarts", "p99 ms"]
    figures += ["simulated: in time %", "simulated: cores", "off by"]
    table = new_table(None, ["schedule", "system"], figures, box=MARKDOWN)
    for row in rows:
        live, virtual = row.live, row.virtual
        classes = live["by_class"]
        table.add_row(
            row.schedule,
            row.system,
            f"{100 * row.in_time:.2f}",
            " / ".join(f"{100 * share:.1f}" for share in classes.values()) if len(classes) > 1 else "",
            f"{row.cores:.3f}",
            *(str(live[name]) for name in ("resizes", "started", "restarts")),
            "-" if live["p99_ms"] is None else f"{live['p99_ms']:.0f}",
            f"{100 * virtual.in_time:.2f}",
            f"{virtual.mean_cores:.3f}",
            f"{virtual.mean_cores / row.cores - 1:+.0%}" if row.cores else "-",
        )
    return table


def verdicts(rows: Sequence[Row], target: float) -> list[str]:
    """For each schedule, ours against the best other system that keeps the target."""
    said = []
    for schedule in dict.fromkeys(row.schedule for row in rows):
        own = [row for row in rows if row.schedule == schedule]
        best = best_of(own, target)
        if best is None:
            continue
        most = max(row.in_time for row in own if not row.is_ours)
        said += [
            f"{schedule}: {ours.system} has {ours.cores / best.cores:.2f} of the cores of {best.system}, the cheapest"
            f" other that keeps {target:.0%}; in time {ours.in_time:.2%}, the best other {most:.2%}"
            for ours in own
            if ours.is_ours
        ]
    return said


def draw(figure: Figure, rows: Sequence[Row]) -> None:
    """Draws cores and misses: a panel for each schedule, a point for each system, live filled and simulated hollow."""
    schedules = list(dict.fromkeys(row.schedule for row in rows))
    for axes, schedule in zip(figure.subplots(1, max(1, len(schedules)), squeeze=False)[0], schedules, strict=False):
        for row in rows:
            if row.schedule != schedule:
                continue
            colour = SPONGE if row.is_ours else SOFT if row.system.startswith(FIXED) else INK
            axes.plot(row.cores, 100 * row.in_time, "o", color=colour, markersize=5)
            axes.plot(row.virtual.mean_cores, 100 * row.virtual.in_time, "o", mfc="none", color=colour, markersize=5)
            axes.annotate(row.system, (row.cores, 100 * row.in_time), fontsize=6, rotation=30, color=colour)
        axes.axhline(99, color=BAD, linestyle="--", linewidth=0.8)
        axes.set_title(schedule)
        axes.set_xlabel("mean cores")
        axes.set_xlim(left=0)
    figure.axes[0].set_ylabel("in time, %")
