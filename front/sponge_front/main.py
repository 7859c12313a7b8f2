"""Runs a front: logging, the event loop, the front."""

from __future__ import annotations

import asyncio

from sponge_front.front import Front
from sponge_front.settings import FrontSettings
from sponge_system.logs import set_up

__all__ = ["run"]


def run(settings: FrontSettings) -> None:
    """Returns once the front was told to stop. Raises SpongeError when it cannot start."""
    set_up(settings.log_level)
    asyncio.run(Front(settings).run())
