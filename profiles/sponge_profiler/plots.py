"""Plots a profile: measured times as points, predictions as lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sponge_core.errors import SpongeError, needs_extra
from sponge_core.latency import LatencyModel
from sponge_profiles.profile import Profile

__all__ = ["check_path", "save_plot"]


def check_path(path: Path) -> None:
    """Raises SpongeError if `save_plot` could not write the file; call it before a long measurement."""
    if path.suffix not in (".svg", ".png"):
        raise SpongeError(f"--plot {path}: name a file that ends in .svg or .png")
    if not path.resolve().parent.is_dir():
        raise SpongeError(f"--plot {path}: there is no directory {path.resolve().parent}; create it first")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SpongeError(needs_extra("--plot", "matplotlib", "plots")) from None


def save_plot(profile: Profile, path: Path) -> None:
    """Plots times by batch size, one colour a thread count; to the right, by row size, and under parts of a core."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [_draw_points]
    if profile.sized_points:
        panels.append(_draw_sizes)
    if profile.quotas:
        panels.append(_draw_quotas)
    figure = Figure(figsize=(6.5 * len(panels), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{profile.name}: p{profile.fitted_percentile} of {profile.model} on {profile.machine}", fontsize=10
    )
    for number, draw in enumerate(panels, 1):
        draw(figure.add_subplot(1, len(panels), number), profile)
    figure.savefig(path, dpi=150)


def _draw_points(axes: Any, profile: Profile) -> None:
    other = profile.model_copy(update={"form": "formula" if profile.form == "table" else "table"})
    for number, threads in enumerate(sorted({p.threads for p in profile.points})):
        points = [p for p in profile.points if p.threads == threads]
        label = f"{threads} thread{'s' if threads > 1 else ''}"
        colour = f"C{number}"
        measured = [p.at(profile.fitted_percentile) for p in points]
        axes.plot([p.batch for p in points], measured, "o", color=colour, label=label)
        _draw_line(axes, profile.latency_model(), profile, threads, color=colour)
        if _has_table(profile):
            _draw_line(axes, other.latency_model(), profile, threads, color=colour, linestyle=":", linewidth=1)
    note = f", dotted: the {other.form}" if _has_table(profile) else ""
    axes.set_title(f"measured, and the {profile.form} as lines{note}", fontsize=9)
    _finish(axes)


def _has_table(profile: Profile) -> bool:
    """Negative coefficients, as some published ones, make no table, and a table has no sizes."""
    return profile.origin != "published" and profile.sizes is None


def _draw_sizes(axes: Any, profile: Profile) -> None:
    model = profile.latency_model()
    shapes = sorted({(p.batch, p.threads) for p in profile.sized_points})
    largest = max(p.size for p in profile.sized_points)
    for number, (batch, threads) in enumerate(shapes):
        points = [p for p in profile.sized_points if (p.batch, p.threads) == (batch, threads)]
        label = f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
        measured = [p.at(profile.fitted_percentile) for p in points]
        axes.plot([p.size for p in points], measured, "o", color=f"C{number}", label=label)
        sizes = [largest * step / 100 for step in range(1, 101)]
        predicted = [model.at(size).latency(batch, threads) * 1e3 for size in sizes]
        axes.plot(sizes, predicted, "-", color=f"C{number}")
    axes.set_title("by the size of rows, and the formula as lines", fontsize=9)
    _finish(axes, "size of a row")


def _draw_quotas(axes: Any, profile: Profile) -> None:
    for number, cores in enumerate(sorted({p.cores for p in profile.quotas})):
        points = [p for p in profile.quotas if p.cores == cores]
        colour = f"C{number}"
        measured = [p.at(profile.percentile) for p in points]
        axes.plot([p.batch for p in points], measured, "o", color=colour, label=f"{cores:g} cores")
        allowed = [profile.allowed_ms(cores, p.batch) for p in points]
        axes.plot([p.batch for p in points], allowed, "-", color=colour)
    axes.set_title("throttled, and the dispatch rule's prediction as lines", fontsize=9)
    _finish(axes)


def _draw_line(axes: Any, model: LatencyModel, profile: Profile, threads: int, **style: Any) -> None:
    batches = range(1, max(p.batch for p in profile.points) + 1)
    axes.plot(batches, [model.latency(b, threads) * 1e3 for b in batches], **{"linestyle": "-", **style})


def _finish(axes: Any, across: str = "batch size") -> None:
    axes.set_xlabel(across)
    axes.set_ylabel("ms")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)
