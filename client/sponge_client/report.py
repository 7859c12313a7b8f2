"""The table that `sponge load` prints."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sponge_client.load import LoadSpec
from sponge_client.outcomes import Summary

__all__ = ["summary_table"]


def summary_table(spec: LoadSpec, summary: Summary) -> Group:
    """The figures of a run, to be printed by rich."""
    link = spec.bandwidth.name if spec.bandwidth else "no network replayed"
    table = Table.grid(padding=(0, 1))
    table.add_column(min_width=20)
    table.add_column(min_width=10, justify="right")
    for name, value in summary.as_dict().items():
        if name == "attainment":
            shown = f"{value:.3%}"
        else:
            shown = "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        table.add_row(f"  {name}", shown)
    title = f"{spec.model} at {spec.url}, SLO {spec.slo_s * 1000:g} ms, {link}"
    return Group(Text(title, no_wrap=True, overflow="ignore"), table)
