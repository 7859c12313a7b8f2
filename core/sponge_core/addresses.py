"""How addresses are written in URLs."""

from __future__ import annotations

__all__ = ["authority"]


def authority(host: str, port: int | str) -> str:
    """Host and port of a URL; an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
