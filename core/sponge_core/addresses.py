"""How addresses are written in URLs."""

from __future__ import annotations

__all__ = ["authority", "host_of"]


def authority(host: str, port: int | str) -> str:
    """Host and port of a URL; an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_of(address: str) -> str:
    """The host of an address with or without a port, without brackets."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address
