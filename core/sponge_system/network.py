"""Which addresses this machine can listen on."""

from __future__ import annotations

import functools
import socket

__all__ = ["EVERY_INTERFACE", "every_interface"]

EVERY_INTERFACE = "::"
"""How an option asks for every interface of both families."""


@functools.cache
def every_interface() -> str:
    """The host to bind for that: `::`, or 0.0.0.0 on a machine without IPv6."""
    return EVERY_INTERFACE if socket.has_dualstack_ipv6() else "0.0.0.0"
