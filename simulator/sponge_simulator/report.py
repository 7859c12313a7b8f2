"""The table that `sponge simulate` prints."""

from __future__ import annotations

from rich.table import Table

from sponge_simulator.experiment import ExperimentResult

__all__ = ["comparison_table"]


def comparison_table(result: ExperimentResult) -> Table:
    """One row per policy; a column of misses per request class where there are several classes."""
    table = Table(title=result.title)
    classes = list(result.policies[0].violations_by_class)
    by_class = classes if len(classes) > 1 else []
    columns = ("sent", "missed", "miss %", *(f"{name} %" for name in by_class), "cores", "resizes", "p99 ms")
    table.add_column("policy", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for summary in result.policies:
        table.add_row(
            summary.policy,
            f"{summary.sent:,}",
            f"{summary.sent - summary.in_time:,}",
            f"{summary.violations * 100:.3f}",
            *(f"{summary.violations_by_class[name] * 100:.3f}" for name in by_class),
            f"{summary.mean_cores:.2f}",
            f"{summary.resizes:,}",
            "-" if summary.p99_ms is None else f"{summary.p99_ms:.0f}",
        )
    return table
