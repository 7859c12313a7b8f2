"""Writes the results of a session: a self-contained HTML report, a picture, and the figures as JSON."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs

from sponge_demo.page import asset
from sponge_demo.palette import BAD, BLUE, INK, SPONGE, STYLE

__all__ = ["write_json", "write_picture", "write_report"]

DASHES = (":", "--", "-.", (0, (1, 4)))


def write_report(document: Mapping[str, Any], path: Path) -> None:
    """The live page with its document, style and scripts in one file that needs nothing else."""
    data = json.dumps(document, separators=(",", ":")).replace("</", "<\\/")
    page = asset("page.html")
    for tag, content in (
        ('<link rel="stylesheet" href="/page.css">', f"<style>\n{asset('page.css')}</style>"),
        ('<script src="/plotly.min.js"></script>', f"<script>{get_plotlyjs()}</script>"),
        (
            '<script src="/page.js"></script>',
            f"<script>window.SPONGE_DOCUMENT = {data};</script>\n<script>\n{asset('page.js')}</script>",
        ),
    ):
        before, found, after = page.partition(tag)
        assert found, tag
        page = before + content + after
    path.write_text(page, encoding="utf-8")


def write_json(document: Mapping[str, Any], path: Path) -> None:
    """The whole document: every series and figure."""
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def write_picture(document: Mapping[str, Any], path: Path) -> None:
    """Rate, size and attainment of Sponge beside the fixed sizes, as a picture in the format of `path`'s suffix."""
    scenario, runs = document["scenario"], document["runs"]
    sponge, statics = runs[0], runs[1:]
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 6.4), layout="constrained")
        rate, cores, attained = figure.subplots(3, sharex=True, height_ratios=(2, 3, 2))
        series, figures = sponge["series"], sponge["figures"]
        arrivals = document["arrivals"]
        ticks = [second + 0.5 for second in range(len(arrivals["sent"]))]
        rate.set_title("Requests per second: the same schedule for every size")
        rate.bar(ticks, arrivals["sent"], width=0.8, color=BLUE, alpha=0.4)
        rate.plot(ticks[: len(arrivals["rate"])], arrivals["rate"], color=BLUE, lw=1.6)
        cores.set_title("CPU in force (cores)")
        label = f"Sponge: mean {figures['mean_cores']:.2f}, {figures['in_time_percent']:.1f} % in time"
        cores.step(series["cores_t"], series["cores"], where="post", color=SPONGE, lw=1.4, label=label)
        attained.set_title("Requests in time so far (%)")
        attained.plot(_seconds(sponge), _gaps(series["attained"]), color=SPONGE, lw=1.6)
        for run, dashes in zip(statics, itertools.cycle(DASHES), strict=False):
            line = {"color": INK, "lw": 1.0, "ls": dashes, "alpha": 0.55}
            label = f"{run['name']}: {run['figures']['in_time_percent']:.1f} % in time"
            cores.step(run["series"]["cores_t"], run["series"]["cores"], where="post", label=label, **line)
            attained.plot(_seconds(run), _gaps(run["series"]["attained"]), **line)
        cores.set_ylim(0, scenario["max_cores"] * 1.3)
        cores.legend(frameon=False, fontsize=8, loc="upper left", ncols=3)
        attained.axhline(scenario["target_percent"], color=BAD, lw=0.9, ls="--")
        attained.set_xlabel("seconds")
        attained.set_xlim(0, scenario["duration_s"])
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=140)


def _seconds(run: Mapping[str, Any]) -> list[float]:
    return [second + 0.5 for second in range(len(run["series"]["attained"]))]


def _gaps(values: list[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]
