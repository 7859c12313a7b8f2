"""Plots of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sponge_core.errors import SpongeError, needs_extra
from sponge_simulator.comparison import CLAIRVOYANT, PolicySummary

__all__ = ["save_pareto"]

LEAST_PERCENT = 1e-3
"""A policy without a miss is drawn here, because a logarithmic axis has no zero."""


def save_pareto(rows: Sequence[PolicySummary], title: str, path: Path) -> None:
    """Plots violations over mean cores, with the bound as a line. Raises SpongeError for a bad path."""
    if path.suffix not in (".svg", ".png"):
        raise SpongeError(f"--plot {path}: name a file that ends in .svg or .png")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise SpongeError(needs_extra("--plot", "matplotlib", "plots")) from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row in rows:
        if row.policy == CLAIRVOYANT:
            axes.axvline(row.mean_cores, color="0.6", linestyle="--", label="clairvoyant bound")
            continue
        ours = row.policy.partition("@")[0] == "sponge"
        y = max(row.violations * 100, LEAST_PERCENT)
        axes.plot(row.mean_cores, y, "o", color="tab:blue" if ours else "0.35", markersize=9 if ours else 6)
        axes.annotate(row.policy, (row.mean_cores, y), textcoords="offset points", xytext=(6, 5), fontsize=8)
    axes.set_yscale("log")
    axes.set_ylim(bottom=LEAST_PERCENT * 0.7, top=150)
    axes.set_xlim(left=0)
    axes.set_xlabel("mean cores")
    axes.set_ylabel("requests not answered in time, %")
    axes.set_title(title, fontsize=10)
    axes.grid(visible=True, which="major", alpha=0.3)
    if any(row.policy == CLAIRVOYANT for row in rows):
        axes.legend(loc="upper right", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
