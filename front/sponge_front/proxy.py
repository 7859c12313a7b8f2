"""Tells the proxy beside the picker that it is to leave, or that it is to stay.

A proxy that leaves answers what comes, and each answer asks the client to connect anew, elsewhere; its readiness ends.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import aiohttp

from sponge_front.envoy_config import admin_socket
from sponge_system.logs import event

__all__ = ["tell"]

log = logging.getLogger(__name__)

TIMEOUT_S = 2.0


async def tell(directory: Path, what: Literal["leave", "stay"]) -> None:
    """Tells Envoy by its administration, whose socket is in `directory`. One that is not there yet needs no telling."""
    socket = admin_socket(directory)
    if not socket.exists():
        return
    action = "fail" if what == "leave" else "ok"
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=timeout) as session,
            session.post(f"http://envoy/healthcheck/{action}", raise_for_status=True),
        ):
            pass
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        event(log, "proxy.not_told", logging.WARNING, what=what, reason=str(error) or type(error).__name__)
