"""Options that several commands have in the same form.

Imports nothing that only one extra of the distribution brings.
"""

from __future__ import annotations

import math
from typing import Any, get_args

import click

from sponge_system.logs import Level

__all__ = ["LOG_LEVEL", "Number"]


class Number(click.FloatRange):
    """A finite number in a range. Click's own type takes nan, and inf where the range has no end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{found} is no finite number", param, ctx)
        return found


LOG_LEVEL = click.option(
    "--log-level",
    type=click.Choice(get_args(Level)),
    default="info",
    show_default=True,
    help="Lowest level of events logged to stderr.",
)
