"""Fixtures of the conformance tests."""

from perf_analyzer import perf_analyzer
from stock_clients import client, kserve_process, servers

__all__ = ["client", "kserve_process", "perf_analyzer", "servers"]
