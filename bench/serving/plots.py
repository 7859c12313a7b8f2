"""Draws a campaign: goodput and attainment against load, and attainment by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.results import INK, OTHERS, SOFT, SPONGE
from bench.serving.schedule import Mix
from bench.serving.tables import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_classes", "draw_goodput"]

Look = tuple[str, float, int]  # colour, line width, order


def looks(found: Sequence[Point]) -> dict[str, Look]:
    """The line style of every system, the same in all plots of a campaign."""
    peers = [name for name in dict.fromkeys(point.system for point in found) if name != "sponge"]
    table = {name: (OTHERS[i % len(OTHERS)], 1.3, 2) for i, name in enumerate(sorted(peers))}
    return {"sponge": (SPONGE, 2.6, 3), **table}


def draw_goodput(figure: Figure, found: Sequence[Point], mix: Mix, capacity_rps: float) -> None:
    """Draws goodput with the capacity as its ceiling on the left, and attainment on the right."""
    left, right = figure.subplots(1, 2)
    chosen = [point for point in found if point.mix == mix.name]
    top = max((point.load for point in chosen), default=2.0)
    left.plot(
        [0, 1, top],
        [0, capacity_rps, capacity_rps],
        color=INK,
        linewidth=1,
        linestyle=(0, (4, 3)),
        label="offered, up to the capacity",
        zorder=1,
    )
    for system, line in _lines(chosen).items():
        colour, width, order = looks(found)[system]
        loads = [point.load for point in line]
        style = {"color": colour, "linewidth": width, "zorder": order, "marker": "o", "markersize": 1.5 + width}
        left.plot(loads, [point.goodput_rps for point in line], label=system, **style)
        left.vlines(
            loads, [p.least_rps for p in line], [p.most_rps for p in line], color=colour, linewidth=1, zorder=order
        )
        right.plot(loads, [100 * point.attainment for point in line], **style)
    left.set_title("in-time answers per second")
    right.set_title("in time, % of all that were sent")
    left.set_ylim(0, capacity_rps * 1.1)
    right.set_ylim(0, 103)
    for axes in (left, right):
        _loads_below(axes, chosen)
    figure.suptitle(mix.title, x=0.01, ha="left")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)


def draw_classes(figure: Figure, found: Sequence[Point], mix: Mix) -> None:
    """Draws one panel per class: its share in time against load."""
    chosen = [point for point in found if point.mix == mix.name]
    names = [name for name in mix.classes if any(name in point.by_class for point in chosen)]
    panels = figure.subplots(1, max(len(names), 1), sharey=True, squeeze=False)[0]
    for name, axes in zip(names, panels, strict=False):
        for system, line in _lines(chosen).items():
            colour, width, order = looks(found)[system]
            own = [(point.load, 100 * point.by_class[name]) for point in line if name in point.by_class]
            axes.plot(
                [load for load, _ in own],
                [share for _, share in own],
                color=colour,
                linewidth=width,
                zorder=order,
                marker="o",
                markersize=1.5 + width,
                label=system if axes is panels[0] else None,
            )
        axes.set_title(f"deadline {name}: % in time")
        axes.set_ylim(0, 103)
        _loads_below(axes, chosen)
    figure.suptitle(mix.title, x=0.01, ha="left")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)


def _lines(chosen: Sequence[Point]) -> dict[str, list[Point]]:
    systems = dict.fromkeys(point.system for point in chosen)
    return {name: sorted((p for p in chosen if p.system == name), key=lambda p: p.load) for name in systems}


def _loads_below(axes: Axes, chosen: Sequence[Point]) -> None:
    axes.set_xlabel("load, of the capacity")
    axes.set_xticks(sorted({point.load for point in chosen}))
    axes.set_xlim(left=0)
    axes.grid(axis="y", color=SOFT, alpha=0.25)
    axes.axvline(1.0, color=SOFT, linewidth=0.8, linestyle=":", zorder=0)
