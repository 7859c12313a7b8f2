"""Sizes over time as step lines, of real and of simulated runs; pure."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["corners", "mean_of"]


def corners(steps: Sequence[tuple[float, float]], duration_s: float) -> list[tuple[float, float]]:
    """The corners of a step line: at its start, at each change of the value, and at its end.

    Args:
        steps: (seconds after the start of the run, value from then on), ascending; may begin before the start.
        duration_s: where the line ends.

    Returns:
        Seconds in [0, duration_s] and values; empty if no step is before the end.
    """
    found: list[tuple[float, float]] = []
    for at, value in steps:
        if at <= 0:
            found = [(0.0, value)]
        elif at < duration_s and (not found or found[-1][1] != value):
            found.append((at, value))
    return [*found, (duration_s, found[-1][1])] if found else []


def mean_of(line: Sequence[tuple[float, float]]) -> float:
    """The mean of a step line that `corners` made, weighted by time."""
    area = sum(value * (line[i + 1][0] - at) for i, (at, value) in enumerate(line[:-1]))
    return area / (line[-1][0] - line[0][0])
