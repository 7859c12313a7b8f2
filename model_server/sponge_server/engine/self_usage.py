"""How much of the CPU quota the server itself uses beside the lanes: receiving, planning, answering.

Lanes and this process share one quota; what this process takes, a batch does not get. Pure: CPU time and clock come in.
"""

from __future__ import annotations

import math

__all__ = ["Overhead"]

MEMORY_S = 2.0
"""Time constant of the average: longer than a burst of uploads, shorter than a change of the load."""

STEP_CORES = 0.005
"""Smaller changes are not worth deciding anew for."""


class Overhead:
    """The smoothed CPU use of one process, in cores."""

    def __init__(self, now: float, cpu_s: float) -> None:
        self._at = now
        self._cpu_s = cpu_s
        self._mean = 0.0
        self._cores = 0.0

    @property
    def cores(self) -> float:
        """As it was when it last changed by more than `STEP_CORES`."""
        return self._cores

    def observe(self, now: float, cpu_s: float) -> bool:
        """Takes in that the process has used `cpu_s` seconds of CPU by `now`; returns whether `cores` changed."""
        elapsed = now - self._at
        if elapsed <= 0:
            return False
        rate = (cpu_s - self._cpu_s) / elapsed
        self._mean += (1.0 - math.exp(-elapsed / MEMORY_S)) * (rate - self._mean)
        self._at, self._cpu_s = now, cpu_s
        if abs(self._mean - self._cores) < STEP_CORES:
            return False
        self._cores = self._mean
        return True
