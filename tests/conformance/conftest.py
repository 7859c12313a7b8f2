"""Fixtures of the conformance tests."""

from perf_analyzer import perf_analyzer
from stock_clients import client, kserve_process, model_server

__all__ = ["client", "kserve_process", "model_server", "perf_analyzer"]
