"""Bounds that no small request reaches."""

from __future__ import annotations

from sponge_server.bounds import Bounds

__all__ = ["WIDE"]

WIDE = Bounds(
    rows=1000,
    inputs=1000,
    dimensions=32,
    elements=1 << 24,
    strings=1000,
    outputs=1000,
    lists=1 << 20,
    tensor_bytes=1 << 30,
    text_bytes=1 << 30,
    body_bytes=1 << 30,
    message_bytes=1 << 30,
)
