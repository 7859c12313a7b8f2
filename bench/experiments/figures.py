"""Draws experiments: misses against cores, cores over time, and the lines of a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.experiments.campaign import Found
from bench.experiments.catalogue import OURS
from bench.experiments.runs import schedules
from bench.experiments.summary import Row
from bench.results import BLUE, INK, SOFT, SPONGE
from sponge_core.edf_queue import Request
from sponge_simulator.comparison import CLAIRVOYANT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_cores", "draw_pareto", "draw_sweeps"]

COLOURS = ("#c8772d", "#3b6fb6", "#8a4fa3", "#5b8c3a", "#b5446e", "#7a6a53", "#4a9aa8")
CORES = (0.1, 0.2, 0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24)
"""Where the logarithmic axis of cores is labelled."""

STARTED_S = 5
"""Ours begins with the largest size; that is over by now, and the axis is drawn for what comes."""

ALSO_OURS = "#6fb9b3"
ZERO = 1e-3
"""Percent missed at which "none" is drawn on the logarithmic axis."""

OVER_TIME = ("sponge-paper", "fa2", "barista", "autopilot")
"""Beside ours in the picture of cores over time."""


def draw_pareto(figure: Figure, found: Sequence[Row], title: str) -> None:
    """Mean cores against misses, each policy a labelled point with the range over its seeds; the bound a line."""
    from adjustText import adjust_text

    axes = figure.add_subplot()
    labels, xs, ys = [], [], []
    for row in found:
        if row.policy == CLAIRVOYANT:
            axes.axvline(row.cores.mean, color=SOFT, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
            axes.text(
                row.cores.mean * 0.99,
                0.06,
                "the bound: nobody misses nothing with less",
                color=INK,
                rotation=90,
                fontsize=7.5,
                ha="right",
                va="center",
            )
            continue
        ours = row.policy in OURS
        colour = SPONGE if ours else INK
        y = _shown(row.missed_percent.mean)
        axes.errorbar(
            row.cores.mean,
            y,
            xerr=_bars(row.cores.mean, row.cores.least, row.cores.most),
            yerr=_bars(y, _shown(row.missed_percent.least), _shown(row.missed_percent.most)),
            fmt="o",
            color=colour,
            markersize=8 if ours else 4.5,
            elinewidth=0.7,
            alpha=1.0 if ours else 0.75,
            zorder=3 if ours else 2,
        )
        size, weight = (10, "bold") if ours else (7.5, "normal")
        labels.append(axes.text(row.cores.mean, y, row.policy, fontsize=size, color=colour, fontweight=weight))
        xs.append(row.cores.mean)
        ys.append(y)
    axes.set_yscale("log")
    axes.set_ylim(ZERO * 0.55, 150)
    axes.set_xscale("log")
    most = max(row.cores.most for row in found)
    least = min((row.cores.least for row in found if row.cores.least > 0), default=most)
    axes.set_xlim(0.8 * least, 1.3 * most)
    ticks = [cores for cores in CORES if 0.8 * least < cores < 1.3 * most]
    axes.set_xticks(ticks, [f"{cores:g}" for cores in ticks])
    axes.set_yticks([ZERO, 0.01, 0.1, 1, 10, 100], ["none", "0.01", "0.1", "1", "10", "100"])
    axes.minorticks_off()
    axes.set_xlabel("mean cores")
    axes.set_ylabel("requests not answered in time, %")
    axes.grid(visible=True, which="major", alpha=0.2)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    figure.canvas.draw()
    adjust_text(
        labels,
        x=xs,
        y=ys,
        ax=axes,
        arrowprops={"arrowstyle": "-", "color": SOFT, "lw": 0.5},
        expand=(1.2, 1.7),
        max_move=(25, 25),
        iter_lim=300,
    )


def draw_cores(figure: Figure, found: Found, title: str) -> None:
    """What came, and the cores that each policy had for it, second by second; of the first seed."""
    traced = {case.policy: (case, result) for case, result in found if "cores_by_s" in result}
    first = next(policy for policy in traced if policy in OURS)
    case, _ = traced[first]
    requests = [request for own in schedules(case.variant, case.seed) for request in own]
    demand, cores = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    _draw_demand(demand, requests, int(case.variant.duration_s))
    colours = dict(zip(OVER_TIME, COLOURS, strict=False))
    for policy in (*OVER_TIME, *(own for own in reversed(list(traced)) if own in OURS)):
        if policy in traced:
            result = traced[policy][1]
            missed = 100 * result["missed"] / max(1, result["sent"])
            label = f"{policy}: {result['mean_cores']:.2f} cores, {missed:.2g} % missed"
            ours = policy in OURS
            colour = colours.get(policy, SPONGE if policy == first else ALSO_OURS)
            style = {"color": colour, "lw": 1.6 if ours else 0.9, "label": label}
            cores.step(range(len(result["cores_by_s"])), result["cores_by_s"], where="post", **style)
    cores.set_title("cores, mean of each second; what is higher in the first seconds is cut off")
    shown = [traced[policy][1]["cores_by_s"][STARTED_S:] for policy in traced if policy in (*OVER_TIME, *OURS)]
    cores.set_ylim(0, 1.1 * max(map(max, shown)))
    cores.set_xlabel("seconds")
    cores.set_xlim(0, case.variant.duration_s)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    figure.legend(*cores.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)


def _draw_demand(axes: Axes, requests: Sequence[Request], seconds: int) -> None:
    counts, least = [0] * seconds, [math.nan] * seconds
    for request in requests:
        second = int(request.arrival)
        if second < seconds:
            counts[second] += 1
            left_ms = 1000 * (request.deadline - request.arrival)
            least[second] = left_ms if math.isnan(least[second]) else min(least[second], left_ms)
    axes.set_title("requests in each second (grey), least remaining SLO on arrival in ms (line)")
    axes.fill_between(range(seconds), counts, step="post", color=SOFT, alpha=0.5, linewidth=0)
    axes.set_ylim(bottom=0)
    right = axes.twinx()
    right.plot(range(seconds), least, color=BLUE, lw=0.9)
    right.set_ylim(bottom=0)
    right.tick_params(axis="y", colors=BLUE)
    right.spines["right"].set_visible(True)
    right.spines["right"].set_color(BLUE)


def draw_sweeps(figure: Figure, sweeps: Mapping[str, tuple[str, Mapping[float, Sequence[Row]]]]) -> None:
    """A column a sweep: above what is missed, below the cores.

    Args:
        sweeps: by title, the axis' label and the rows of each place.
    """
    panels = figure.subplots(2, len(sweeps), sharex="col", sharey="row", squeeze=False)
    for column, (title, (axis, places)) in enumerate(sweeps.items()):
        missed, cores = panels[0][column], panels[1][column]
        policies = [row.policy for row in next(iter(places.values()))]
        colours = dict(zip([p for p in policies if p not in (*OURS, CLAIRVOYANT)], COLOURS, strict=False))
        for policy in policies:
            own = {at: next(row for row in rows if row.policy == policy) for at, rows in places.items()}
            ours, bound = policy in OURS, policy == CLAIRVOYANT
            style = {
                "color": SPONGE if ours else SOFT if bound else colours[policy],
                "lw": 2.2 if ours else 1.1,
                "ls": (0, (4, 3)) if bound else "-",
                "marker": "" if bound else "o",
                "ms": 4 if ours else 2.5,
                "zorder": 3 if ours else 2,
            }
            if not bound:
                missed.plot(list(own), [_shown(row.missed_percent.mean) for row in own.values()], **style)
            label = ("the bound" if bound else policy) if column == 0 else None
            cores.plot(list(own), [row.cores.mean for row in own.values()], label=label, **style)
        missed.set_title(title)
        missed.set_yscale("log")
        missed.set_ylim(ZERO * 0.55, 150)
        missed.set_yticks([ZERO, 0.01, 0.1, 1, 10, 100], ["none", "0.01", "0.1", "1", "10", "100"])
        missed.minorticks_off()
        cores.set_ylim(bottom=0)
        cores.set_xlabel(axis)
        if max(places) > 20 * min(at for at in places if at > 0):
            cores.set_xscale("log")
            cores.set_xticks(list(places), [f"{at:g}" for at in places])
            cores.minorticks_off()
        for axes in (missed, cores):
            axes.grid(visible=True, alpha=0.2)
    panels[0][0].set_ylabel("missed, %")
    panels[1][0].set_ylabel("mean cores")
    figure.legend(loc="outside lower center", ncols=7, frameon=False)


def _shown(percent: float) -> float:
    return max(percent, ZERO)


def _bars(mean: float, least: float, most: float) -> list[list[float]]:
    return [[max(0.0, mean - least)], [max(0.0, most - mean)]]
