"""The terminal report of `sponge profile`: measured times beside predicted ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from sponge_profiles.points import GridPoint, LanePoint, QuotaPoint
    from sponge_profiles.profile import Profile

__all__ = ["print_report"]

_MEASURED = ("p50 ms", "p95 ms", "p99 ms")


def print_report(profile: Profile, console: Console) -> None:
    """Prints tables of the cells, then the result of the fit in sentences."""
    console.print(_points(profile))
    if profile.quotas:
        console.print(_quotas(profile))
    if profile.lanes:
        console.print(_lanes(profile))
    if profile.sized_points:
        console.print(_sizes(profile))
    for line in _sentences(profile):
        console.print(line, highlight=False, soft_wrap=True)


def _points(profile: Profile) -> Table:
    model = profile.latency_model()
    table = _table(f"{profile.name} on {profile.machine}")
    percentile = profile.fitted_percentile
    for head in ("batch", "threads", *_MEASURED, f"{profile.form} of p{percentile}", "off by"):
        table.add_column(head, justify="right")
    for point in profile.points:
        measured = point.at(percentile) or 0.0
        fitted = model.latency(point.batch, point.threads) * 1e3
        off = "no gain" if _wasted(point, profile) else f"{(measured / fitted - 1) * 100:+.0f} %"
        table.add_row(str(point.batch), str(point.threads), *_shown(point), f"{fitted:.2f}", off)
    return table


def _quotas(profile: Profile) -> Table:
    table = _table("under a fraction of a core for every thread: throttled")
    for head in ("batch", "cores", *_MEASURED, "predicted", "off by"):
        table.add_column(head, justify="right")
    for point in profile.quotas:
        allowed = profile.allowed_ms(point.cores, point.batch)
        measured = point.at(profile.percentile)
        off = "-" if measured is None else f"{(measured / allowed - 1) * 100:+.0f} %"
        table.add_row(str(point.batch), f"{point.cores:g}", *_shown(point), f"{allowed:.2f}", off)
    return table


def _lanes(profile: Profile) -> Table:
    table = _table("lanes side by side, on one thread and one core each")
    for head in ("batch", "lanes", *_MEASURED, "alone p50", "slower by"):
        table.add_column(head, justify="right")
    for point in profile.lanes:
        slower = f"{(point.slowdown - 1) * 100:+.0f} %"
        table.add_row(str(point.batch), str(point.lanes), *_shown(point), f"{point.alone_p50_ms:.2f}", slower)
    return table


def _sizes(profile: Profile) -> Table:
    model, percentile = profile.latency_model(), profile.fitted_percentile
    table = _table("rows of one size each")
    for head in ("size", "batch", "threads", *_MEASURED, f"formula of p{percentile}", "off by"):
        table.add_column(head, justify="right")
    for point in sorted(profile.sized_points, key=lambda point: (point.batch, point.threads, point.size)):
        fitted = model.at(point.size).latency(point.batch, point.threads) * 1e3
        off = f"{((point.at(percentile) or 0.0) / fitted - 1) * 100:+.0f} %"
        shape = (f"{point.size:g}", str(point.batch), str(point.threads))
        table.add_row(*shape, *_shown(point), f"{fitted:.2f}", off)
    return table


def _sentences(profile: Profile) -> list[str]:
    c = profile.coefficients_ms
    above = max(0.0, profile.error.p90) * 100
    lines = [
        f"l(b,k) = {c.gamma:g}*b/k + {c.delta:g}*b + {c.epsilon:g}/k + {c.eta:g} ms;  "
        + ("" if profile.r2 is None else f"R2 {profile.r2:g}, ")
        + f"mean error {profile.mape_percent:g} %",
        f"90 % of the cells are within {above:.0f} % above the {profile.form}"
        + (" made from the other cells; " if profile.form == "table" else "; ")
        + f"each additional lane slows the others by {profile.interference * 100:.0f} %",
    ]
    if profile.sizes is not None:
        of = profile.sizes
        lines.append(f"gamma and delta are of rows of size {of.reference:g}; at size s they are this many times that:")
        for name, (p0, p1, p2) in (("gamma", of.parallel), ("delta", of.serial)):
            lines.append(f"  {name}: {p0:.4g} + {p1:.4g}*s + {p2:.4g}*s^2")
        if of.unseen_p80_percent is not None:
            lines.append(
                f"80 % of the times of a size are within {of.unseen_p80_percent:g} % of a fit without that size"
            )
    if profile.validation is not None:
        formula, table = profile.validation.formula, profile.validation.table
        lines.append(
            f"unseen cells are off by {formula.mean_percent:.1f} % on average, {formula.max_percent:.1f} % at most "
            f"with the formula, by {table.mean_percent:.1f} and {table.max_percent:.1f} % with the table: "
            f"this profile uses the {profile.form}"
        )
    if profile.memory is not None:
        lines.append(
            f"memory: {profile.memory.base_mib:g} MiB for server and model, {profile.memory.lane_mib:g} MiB a lane, "
            f"{profile.memory.item_mib:g} MiB a row of its largest batch"
        )
    return lines


def _table(title: str) -> Table:
    return Table(box=box.SIMPLE, title=title, title_justify="left")


def _shown(point: GridPoint | QuotaPoint | LanePoint) -> list[str]:
    return [f"{value:.2f}" if value else "-" for value in (point.p50_ms, point.p95_ms, point.p99_ms)]


def _wasted(point: GridPoint, profile: Profile) -> bool:
    """Whether a smaller number of threads was faster."""
    measured = point.at(profile.percentile) or 0.0
    return any(
        other.batch == point.batch
        and other.threads < point.threads
        and (other.at(profile.percentile) or measured) < measured
        for other in profile.points
    )
