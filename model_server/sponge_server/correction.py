"""How much slower or faster the model runs here than its profile says, learnt from finished batches.

Pure. Slow to trust (a fast batch moves it little), quick to distrust (a slow one moves it much), and bounded, because a
prediction that is too high costs cores but one that is too low costs deadlines.
"""

from __future__ import annotations

__all__ = ["Correction"]

TRUST, DISTRUST = 0.05, 0.2
"""Weight of a sample below and above the present ratio: about 20 batches to believe a gain, 5 to believe a loss."""

LOWEST, HIGHEST = 0.5, 3.0
"""Outside of this the profile is not of this model or machine, and scaling it would be guesswork."""

STEP = 2.0
"""One batch counts for at most this factor up or down: a single stall is not a trend."""


class Correction:
    """The smoothed ratio of measured to predicted work."""

    def __init__(self) -> None:
        self._ratio = 1.0

    @property
    def ratio(self) -> float:
        return self._ratio

    def observe(self, predicted_s: float, measured_s: float) -> float:
        """Learns from one batch, predicted by the uncorrected profile; returns this batch's own ratio."""
        sample = measured_s / predicted_s
        clipped = min(max(sample, self._ratio / STEP), self._ratio * STEP)
        weight = DISTRUST if clipped > self._ratio else TRUST
        self._ratio = min(max(self._ratio + weight * (clipped - self._ratio), LOWEST), HIGHEST)
        return sample
