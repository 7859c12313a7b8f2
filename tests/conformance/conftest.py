"""Fixtures of the conformance tests; `stock_clients.py` makes them."""

from stock_clients import client, kserve_process, servers

__all__ = ["client", "kserve_process", "servers"]
