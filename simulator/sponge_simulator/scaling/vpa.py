"""The Vertical Pod Autoscaler: a percentile of past CPU use with a safety margin, in place.

Source: the recommender and the updater of Kubernetes' autoscaler 1.8. The target is the 90th percentile of a decaying
histogram of CPU use, times 1.15; it is applied when the size in force leaves the band from the 50th to the 95th
percentile. The half-life is 24 h, the interval a minute, the least size 25m. Each reading of metrics-server is one
sample. The policy knows neither batches nor deadlines. A shorter half-life and interval make the fast variant.

The real one also widens the band while its samples are few. Here it has no past to be unsure of, unless a time is given
over which the band narrows. And recommender and updater are two programs with rounds of their own. Here the updater
acts right after the recommender, unless it is said to be a round behind.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from sponge_core.edf_queue import Request
from sponge_simulator.scaling.interface import Observation, Service, Size

__all__ = ["DecayingHistogram", "Vpa"]

MARGIN = 0.15
LEAST_CORES = 0.025
FIRST_BUCKET_CORES = 0.01
BUCKET_GROWTH = 1.05
LOWER_WIDENING, UPPER_WIDENING = 0.001, 1.0
"""How much the band is wider at an age of one confidence interval; the recommender's constants."""


class DecayingHistogram:
    """A histogram of CPU use, in buckets that are each 5 % wider than the one below.

    The weight of a sample halves every half-life.
    """

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._weights: dict[int, float] = {}

    def add(self, at: float, cores: float) -> None:
        """Adds a sample that was taken at `at` seconds."""
        # Newer samples weigh more instead of older ones less, so that no stored weight changes.
        bucket = math.floor(math.log(cores / FIRST_BUCKET_CORES * (BUCKET_GROWTH - 1) + 1, BUCKET_GROWTH))
        weight = 2.0 ** (at / self._half_life_s)
        self._weights[bucket] = self._weights.get(bucket, 0.0) + weight

    def percentile(self, share: float) -> float:
        """The upper edge, in cores, of the bucket at fraction `share` of the weight; 0 without a sample."""
        left = share * sum(self._weights.values())
        for bucket in sorted(self._weights):
            left -= self._weights[bucket]
            if left <= 0:
                return float(FIRST_BUCKET_CORES * (BUCKET_GROWTH ** (bucket + 1) - 1) / (BUCKET_GROWTH - 1))
        return 0.0


class Recommendation(NamedTuple):
    """The band that sizes may be in, and the size to have, in cores."""

    lower: float
    target: float
    upper: float


class Vpa:
    """One replica at the recommended CPU, rounded up to the service's steps.

    Args:
        confidence_s: the age of the samples at which the upper end of the band is twice what they say; 0: it is narrow
            from the start.
        min_change: share of the present size by which the target has to differ to be applied within the band, too.
        is_behind: the updater's round comes just before the recommender's, as where both programs start together: it
            applies what was recommended a round ago.
    """

    dispatch = "fifo"

    def __init__(
        self,
        service: Service,
        half_life_s: float = 86_400.0,
        interval_s: float = 60.0,
        confidence_s: float = 0.0,
        min_change: float = math.inf,
        is_behind: bool = False,
    ) -> None:
        self.interval_s = interval_s
        self._service = service
        self._histogram = DecayingHistogram(half_life_s)
        self._confidence_s = confidence_s
        self._min_change = min_change
        self._is_behind = is_behind
        self._first_at, self._last_at = math.inf, -math.inf
        self._recommended: Recommendation | None = None

    def arrived(self, now: float, request: Request) -> None:
        """Ignores requests and looks only at CPU use."""

    def plan(self, state: Observation) -> Size:
        known = self._recommended
        for use in state.uses:
            if use.at > self._last_at:
                self._histogram.add(use.at, use.cores)
                self._first_at, self._last_at = min(self._first_at, use.at), use.at
        if self._last_at >= 0:
            self._recommended = self._recommendation()
        return self._updated(state.size, known if self._is_behind else self._recommended)

    def _updated(self, size: Size, recommended: Recommendation | None) -> Size:
        """The updater's part: the size for what was recommended, where that is another."""
        if recommended is None:
            return size
        lower, target, upper = recommended
        differs = abs(target - size.cores) >= self._min_change * size.cores
        if lower <= size.cores <= upper and not differs:
            return size
        sizes = self._service.sizes
        return Size(next((each for each in sizes if each >= target), sizes[-1]), self._service.max_batch)

    def _recommendation(self) -> Recommendation:
        lower, target, upper = (_with_margin(self._histogram.percentile(share)) for share in (0.5, 0.9, 0.95))
        if self._confidence_s > 0:
            age_s = max(self._last_at - self._first_at, 1e-9)
            unsure = self._confidence_s / age_s
            lower, upper = lower * (1 + LOWER_WIDENING * unsure) ** -2, upper * (1 + UPPER_WIDENING * unsure)
        return Recommendation(lower, max(target, LEAST_CORES), upper)


def _with_margin(cores: float) -> float:
    """A percentile and the margin, each in whole millicores, rounded down."""
    milli = math.floor(1000 * cores)
    return (milli + math.floor(MARGIN * milli)) / 1000
