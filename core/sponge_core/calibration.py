"""Learns from finished batches how much slower or faster a model runs here than its profile says.

There is one factor for all batches and one for each thread count, because a formula can be right for one thread and
wrong for four. Where rows differ in size there is one for each octave of sizes, on top of these. A factor follows a
gain slowly (after some twenty batches), a loss quickly (most of it within five), and is bounded. Noise alone does not
move it: the profile's error already accounts for the variation of the latency, and counting it twice would refuse
requests that could be answered in time.
"""

from __future__ import annotations

import math
from dataclasses import replace

from sponge_core.latency import LatencyModel, octave_of

__all__ = ["Calibration", "Drift"]

SLOW, FAST = 0.05, 0.25
"""Weights of a sample in the two averages."""

FAST_NOISE = math.sqrt(FAST / (2.0 - FAST)) * math.sqrt(math.pi / 2.0)
"""Standard deviation of the fast average over the mean absolute deviation of its samples (normal, independent)."""

SIGMAS = 2.0
"""The fast average counts as far as it exceeds its own noise by this much."""

LOWEST, HIGHEST = 0.5, 3.0
"""Bounds of a factor. Beyond them the profile is of another model or machine, and scaling it would be guesswork."""

STEP = 2.0
"""One batch counts for at most this factor up or down, because a single stall is not a trend."""

FRESH = 50
"""The factor of a thread count is fresh if one of this many last batches ran on it."""

DRIFT_BAND = (0.67, 1.5)
"""Outside this band of ratios, the profile was measured on another machine or for another model."""

DRIFTED_AFTER_S, BACK_AFTER_S = 30.0, 10.0
"""Seconds that the ratio must stay outside the band to count as drifted, and inside it to count as recovered."""


class _Estimate:
    """The smoothed ratio of measured to predicted work."""

    def __init__(self, start: float = 1.0) -> None:
        self.ratio = start
        self.seen_at = 0
        self._mean = start
        self._recent = start
        self._spread = 0.1

    def observe(self, sample: float) -> None:
        clipped = min(max(sample, self.ratio / STEP), self.ratio * STEP)
        self._spread += SLOW * (abs(clipped - self._recent) - self._spread)
        self._mean += SLOW * (clipped - self._mean)
        self._recent += FAST * (clipped - self._recent)
        ratio = max(self._mean, self._recent - SIGMAS * FAST_NOISE * self._spread)
        self.ratio = min(max(ratio, LOWEST), HIGHEST)


class Calibration:
    """The calibration factors of one model."""

    def __init__(self) -> None:
        self._all = _Estimate()
        self._by_threads: dict[int, _Estimate] = {}
        self._by_octave: dict[int, _Estimate] = {}
        self._count = 0

    @property
    def ratio(self) -> float:
        """Measured / predicted time over all batches, smoothed; without what is particular to octaves of sizes."""
        return self._all.ratio

    def factor(self, threads: int) -> float:
        """The factor for batches on `threads` threads: their own if there were any, else that of all batches.

        An old factor is at least that of all batches, because it may have missed that the machine became slower.
        """
        return self._own(self._by_threads.get(threads))

    def _own(self, own: _Estimate | None) -> float:
        if own is None:
            return self._all.ratio
        return own.ratio if self._count - own.seen_at <= FRESH else max(own.ratio, self._all.ratio)

    def calibrated(self, profile: LatencyModel) -> LatencyModel:
        """The latency model of a profile, corrected by the factors."""
        most = max(self._by_threads, default=0)
        by_threads = tuple(self.factor(threads) / self.ratio for threads in range(1, most + 1))
        sizes = profile.sizes
        if sizes is not None:
            octaves = range(max(self._by_octave, default=-1) + 1)
            sizes = replace(sizes, by_octave=tuple(self._of_octave(octave) for octave in octaves))
        return replace(profile.scaled(self.ratio), by_threads=by_threads, sizes=sizes)

    def observe(self, predicted_s: float, measured_s: float, threads: int = 1, size: float | None = None) -> float:
        """Learns from one batch; returns its ratio of measured to predicted time.

        Args:
            predicted_s: seconds by the uncorrected profile.
            measured_s: seconds that it took.
            threads: of the batch.
            size: of its rows, their largest where they are padded; None: all rows cost the same.
        """
        sample = measured_s / predicted_s
        self._count += 1
        own = self._by_threads.setdefault(threads, _Estimate(self._all.ratio))
        own.seen_at = self._count
        left = sample
        if size is not None:
            # Each learns what the other leaves unexplained: large rows run on many threads, and whatever is particular
            # to them would count twice.
            octave = octave_of(size)
            left = sample / self._of_octave(octave)
            self._by_octave.setdefault(octave, _Estimate()).observe(sample / own.ratio)
        own.observe(left)
        self._all.observe(left)
        return sample

    def _of_octave(self, octave: int) -> float:
        own = self._by_octave.get(octave)
        return 1.0 if own is None else own.ratio


class Drift:
    """Detects that a profile has been off for so long that it should be measured again."""

    def __init__(self) -> None:
        self.drifted = False
        self._since: float | None = None

    def observe(self, now: float, ratio: float) -> bool:
        """Records the ratio at `now` (seconds, ascending over calls); returns whether the profile has drifted."""
        outside = not DRIFT_BAND[0] <= ratio <= DRIFT_BAND[1]
        if outside == self.drifted:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= (DRIFTED_AFTER_S if outside else BACK_AFTER_S):
            self.drifted, self._since = outside, None
        return self.drifted
