"""Options that several commands have in the same form.

Imports nothing that only one extra of the distribution brings.
"""

from __future__ import annotations

from typing import get_args

import click

from sponge_system.logs import Level

__all__ = ["LOG_LEVEL"]

LOG_LEVEL = click.option(
    "--log-level",
    type=click.Choice(get_args(Level)),
    default="info",
    show_default=True,
    help="Lowest level of events logged to stderr.",
)
