"""The look of plots: the demo's picture and the figures of the benchmarks."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["BAD", "BLUE", "INK", "SOFT", "SPONGE", "STYLE"]

INK, SOFT, SPONGE, BLUE, BAD = "#1d2733", "#9aa5b1", "#0b7a75", "#3b6fb6", "#c8372d"
"""Also in `static/page.css` and `static/page.js`."""

STYLE: Final[dict[str, Any]] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "svg.hashsalt": "sponge",  # equal bytes for equal drawings
}
"""Settings of matplotlib."""
