"""The demo's output in the terminal: steps, a progress line, and the closing table.

On a terminal the line is redrawn in place; elsewhere it is written now and then, so that a log shows progress.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

import click

__all__ = ["Terminal", "columns"]

LINE_EVERY_S = 15.0


class Terminal:
    """Writes to stderr; stdout is for the result. Any thread may call it."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._line_at = float("-inf")

    def say(self, text: str) -> None:
        """A step, on a line of its own."""
        click.echo(f"{self._clear()}{text}", err=True)

    def progress(self, document: dict[str, Any]) -> None:
        """The present phase and the time left."""
        now = time.monotonic()
        if not self._live and now - self._line_at < LINE_EVERY_S:
            return
        self._line_at = now
        line = _line(document)
        if self._live:
            width = shutil.get_terminal_size().columns
            click.echo(self._clear() + line[: width - 1], nl=False, err=True)
        else:
            click.echo(line, err=True)

    def table(self, document: dict[str, Any]) -> None:
        """The comparison, on stdout."""
        click.echo(self._clear(), nl=False, err=True)
        head = ("", "mean cores", "in time", "p99", "late", "refused", "resizes", "restarts")
        rows = [_row(run) for run in document["runs"] if run["figures"]]
        for line in columns((head, *rows)):
            click.echo(line)
        click.echo(document["verdict"])

    def _clear(self) -> str:
        return "\r\x1b[K" if self._live else ""


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of equal length as aligned lines: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _line(document: dict[str, Any]) -> str:
    parts = [document["phase"]]
    if document["runs"] and document["runs"][-1]["figures"] is None:
        now = document["runs"][-1]["now"]
        if now["cores"] is not None:
            parts.append(f"cores {now['cores']:.3f}")
        if now["mean_cores"] is not None:
            parts.append(f"mean {now['mean_cores']:.2f}")
        if now["in_time_percent"] is not None:
            parts.append(f"in time {now['in_time_percent']:.2f} %")
        parts.append(f"uplink {now['uplink_mbit']:.0f} Mbit/s")
    if document["left"]:
        parts.append(document["left"])
    return "   ".join(parts)


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    figures = run["figures"]
    p99 = "-" if figures["p99_ms"] is None else f"{figures['p99_ms']:.0f} ms"
    counts = (str(figures[name]) for name in ("late", "refused", "resizes", "restarts"))
    return (run["name"], f"{figures['mean_cores']:.2f}", f"{figures['in_time_percent']:.2f} %", p99, *counts)
