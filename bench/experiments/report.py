"""Writes the results: tables and figures of docs/research/experiments.md, and an HTML page beside the runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from bench.experiments import tables
from bench.experiments.campaign import Found
from bench.experiments.catalogue import Experiment
from bench.experiments.document import filled
from bench.experiments.figures import draw_cores, draw_pareto, draw_sweeps
from bench.experiments.summary import Row, by_variant, rows
from bench.pages import as_page
from bench.results import picture
from sponge_workload.files import load_bandwidth, recordings_here

__all__ = ["parts_of", "write"]

DOCUMENT = "experiments.md"
FIGURES = "figures"
SWEPT = {"sensitivity-load": ("by-slo", "by-rate", "by-payload"), "sensitivity-world": ("by-error", "by-resize")}
"""Pictures of several sweeps."""


def parts_of(experiments: Mapping[str, Experiment], found: Mapping[str, Found], figures: Path) -> dict[str, str]:
    """The generated parts of the document by name; draws the pictures into `figures`."""
    plain = {name: rows(found[name]) for name, each in experiments.items() if not each.axis}
    swept = {name: by_variant(found[name]) for name, each in experiments.items() if each.axis}
    parts = {"recordings": _recordings()}
    for name, own in plain.items():
        parts[name] = _of_one(experiments[name], found[name], own, figures)
    for name, places in swept.items():
        parts[name] = tables.sweep_table(places, experiments[name].axis)
    for name, members in SWEPT.items():
        if all(member in swept for member in members):
            titled = {experiments[m].title: (experiments[m].axis, swept[m]) for m in members}
            picture(figures, name, partial(draw_sweeps, sweeps=titled), height=5.2)
            parts[name] = f"![{name}]({FIGURES}/{name}.svg)"
    if {"paper-poisson", "paper-burst"} <= set(plain):
        trace = load_bandwidth("4g", 1, os.environ)
        assert trace is not None
        parts["published"] = tables.published_table(plain["paper-poisson"], plain["paper-burst"])
        parts["decisions"] = tables.decisions_table(trace)
    whole = {name: own for name, own in plain.items() if not name.endswith("-dispatch")}
    parts["overview"] = tables.overview_table(whole, experiments)
    return parts


def write(
    experiments: Mapping[str, Experiment], found: Mapping[str, Found], source: Path, target: Path, out: Path
) -> Path:
    """Fills the document of `source`; writes it and its pictures to `target`, the page to `out`; returns the page."""
    parts = parts_of(experiments, found, target / FIGURES)
    text = filled((source / DOCUMENT).read_text(encoding="utf-8"), parts)
    target.mkdir(parents=True, exist_ok=True)
    (target / DOCUMENT).write_text(text, encoding="utf-8")
    page = out / "report.html"
    out.mkdir(parents=True, exist_ok=True)
    page.write_text(as_page(text, "Sponge: experiments in virtual time", target), encoding="utf-8")
    return page


def _of_one(experiment: Experiment, found: Found, own: list[Row], figures: Path) -> str:
    name = experiment.name
    seeds = f"{experiment.seeds} seed{'s' if experiment.seeds > 1 else ''} of {experiment.variants[0].duration_s:g} s"
    about = experiment.variants[0].scenario.about
    heading = f"{experiment.title}. {seeds}"
    picture(figures, name, partial(draw_pareto, found=own, title=heading), height=5.4)
    parts = [f"{about[0].upper()}{about[1:]}; {seeds}.", f"![{name}]({FIGURES}/{name}.svg)"]
    if not name.endswith("-dispatch"):
        picture(figures, f"{name}-cores", partial(draw_cores, found=found, title=f"{experiment.title}, seed 1"))
        parts.append(f"![{name}, over time]({FIGURES}/{name}-cores.svg)")
    return "\n\n".join([*parts, tables.verdict(own), tables.policy_table(own)])


def _recordings() -> str:
    here = recordings_here(os.environ)
    return f"Recordings that were there: {', '.join(here)}." if here else "No recording was there: all are synthetic."
