"""Shows and writes the results of an experiment: tables, and in one folder figures as JSON, the plot as SVG and PNG."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import HEAVY_HEAD, Box
from rich.table import Table

from sponge_demo.palette import BAD, BLUE, INK, SOFT, SPONGE, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BAD",
    "BLUE",
    "INK",
    "OTHERS",
    "SOFT",
    "SPONGE",
    "Percentiles",
    "draw_lines",
    "new_table",
    "picture",
    "save",
]

OTHERS = ("#3b6fb6", "#c8772d", "#8a4fa3", "#5b8c3a", "#b5446e", "#7a6a53", "#4a9aa8")
"""Colours of what is compared with Sponge, in order."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Percentiles of a duration, in ms."""

    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Percentiles:
        return cls(*(round(float(x) * 1000, 2) for x in np.percentile(seconds, (50, 90, 99, 100))))


def new_table(
    title: str | None, names: Sequence[str], figures: Sequence[str], caption: str | None = None, box: Box = HEAVY_HEAD
) -> Table:
    """A table without rows: columns of names to the left, then columns of figures to the right."""
    found = Table(title=title, caption=caption, box=box)
    for column in names:
        found.add_column(column)
    for column in figures:
        found.add_column(column, justify="right")
    return found


def draw_lines(
    axes: Axes, lines: Mapping[str, Sequence[tuple[float, float]]], ours: str, colours: Sequence[str] = OTHERS
) -> None:
    """Draws the points of each rule as a line: ours in front, broader and in Sponge's colour."""
    for number, (name, points) in enumerate(lines.items()):
        colour, width, order = (SPONGE, 2.4, 3) if name == ours else (colours[number % len(colours)], 1.2, 2)
        look: dict[str, Any] = {"marker": "o", "markersize": 3, "color": colour, "linewidth": width, "zorder": order}
        axes.plot(*zip(*points, strict=True), label=name, **look)


def save(folder: Path, name: str, document: Mapping[str, Any], draw: Callable[[Figure], None]) -> None:
    """Writes NAME.json, NAME.svg and NAME.png. `draw` adds axes to an empty figure."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"experiment": name, "machine": _machine(), "at": datetime.datetime.now().astimezone().isoformat()}
    (folder / f"{name}.json").write_text(json.dumps(whole | dict(document), indent=1) + "\n", encoding="utf-8")
    picture(folder, name, draw)
    print(f"written: {folder / name}.json, .svg, .png")


def picture(folder: Path, name: str, draw: Callable[[Figure], None], height: float = 4.5) -> None:
    """Writes NAME.svg and NAME.png, with equal bytes for equal drawings. `draw` adds axes to an empty figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    with pyplot.rc_context({**STYLE, "figure.dpi": 140}):
        figure = pyplot.figure(figsize=(8.0, height), layout="constrained")
        draw(figure)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # or each file would work out the layout again, for seconds
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        figure.savefig(folder / f"{name}.png")
        pyplot.close(figure)


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} x {names[0] if names else platform.machine()}, Linux {platform.release()}"
