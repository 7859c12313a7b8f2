"""Reads the metrics of a running process, as Prometheus would."""

from __future__ import annotations

import urllib.request

__all__ = ["scraped"]

WITHIN_S = 30.0


def scraped(url: str) -> dict[str, float]:
    """Every sample by its name with its labels. Raises OSError."""
    with urllib.request.urlopen(url, timeout=WITHIN_S) as answer:
        lines = answer.read().decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}
