"""How much slower or faster the model runs here than its profile says, learnt from finished batches.

Pure. Slow to trust (a gain is believed after some twenty batches), quick to distrust (most of a loss within five), and
bounded. Noise alone moves it neither way: what the latency varies by is in the profile's error already, and counting it
twice would refuse requests that could be met.
"""

from __future__ import annotations

import math

__all__ = ["Correction"]

SLOW, FAST = 0.05, 0.25
"""Weights of a sample in the two averages."""

FAST_NOISE = math.sqrt(FAST / (2.0 - FAST)) * math.sqrt(math.pi / 2.0)
"""Standard deviation of the fast average over the mean absolute deviation of its samples (normal, independent)."""

SIGMAS = 2.0
"""The fast average counts as far as it exceeds its own noise by this much."""

LOWEST, HIGHEST = 0.5, 3.0
"""Outside of this the profile is not of this model or machine, and scaling it would be guesswork."""

STEP = 2.0
"""One batch counts for at most this factor up or down: a single stall is not a trend."""


class Correction:
    """The smoothed ratio of measured to predicted work."""

    def __init__(self) -> None:
        self._mean = 1.0
        self._recent = 1.0
        self._spread = 0.1
        self._ratio = 1.0

    @property
    def ratio(self) -> float:
        return self._ratio

    def observe(self, predicted_s: float, measured_s: float) -> float:
        """Learns from one batch, predicted by the uncorrected profile; returns this batch's own ratio."""
        sample = measured_s / predicted_s
        clipped = min(max(sample, self._ratio / STEP), self._ratio * STEP)
        self._spread += SLOW * (abs(clipped - self._recent) - self._spread)
        self._mean += SLOW * (clipped - self._mean)
        self._recent += FAST * (clipped - self._recent)
        ratio = max(self._mean, self._recent - SIGMAS * FAST_NOISE * self._spread)
        self._ratio = min(max(ratio, LOWEST), HIGHEST)
        return sample
