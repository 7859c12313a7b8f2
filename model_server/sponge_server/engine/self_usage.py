"""CPU use of the server process itself: receiving, projecting, answering.

The lanes and this process share one CPU quota, so its own use is not available for batches.
"""

from __future__ import annotations

import math

__all__ = ["SelfUsage"]

MEMORY_S = 2.0
"""Time constant of the average: longer than a burst of uploads, shorter than a change of the load."""

STEP_CORES = 0.005
"""Smaller changes do not justify a new decision."""


class SelfUsage:
    """The smoothed CPU use of one process, in cores."""

    def __init__(self, now: float, cpu_s: float) -> None:
        """Starts at 0 cores; arguments as in `observe`."""
        self._at = now
        self._cpu_s = cpu_s
        self._mean = 0.0
        self._cores = 0.0

    @property
    def cores(self) -> float:
        """The use in cores, as it was when it last changed by more than `STEP_CORES`."""
        return self._cores

    def observe(self, now: float, cpu_s: float) -> bool:
        """Adds a reading. Returns whether `cores` changed.

        Args:
            now: time of the reading, in seconds.
            cpu_s: CPU seconds that the process has used since its start.
        """
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
