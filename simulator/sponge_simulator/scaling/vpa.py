"""The Vertical Pod Autoscaler: a percentile of past CPU use with a safety margin, in place.

Source: the recommender of the Kubernetes autoscaler. The target is the 90th percentile of a decaying histogram of CPU
use, times 1.15; it is applied when the size in force leaves the band from the 50th to the 95th percentile. The
half-life is 24 h, the interval a minute, the least size 25m. The policy knows neither batches nor deadlines. A shorter
half-life and interval make the fast variant.

The real one also widens the band while its samples are few. Here it has no past to be unsure of, unless a time is given
over which the band narrows.
"""

from __future__ import annotations

import math

from sponge_core.edf_queue import Request
from sponge_simulator.scaling.interface import Observation, Service, Size

__all__ = ["DecayingHistogram", "Vpa"]

MARGIN = 1.15
LEAST_CORES = 0.025
FIRST_BUCKET_CORES = 0.01
BUCKET_GROWTH = 1.05
LOWER_WIDENING, UPPER_WIDENING = 0.001, 1.0
"""How much the band is wider at an age of one confidence interval; the recommender's constants."""


class DecayingHistogram:
    """A histogram of CPU use in buckets that grow by 5 %; the weight of a sample halves every half-life."""

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._weights: dict[int, float] = {}

    def add(self, now: float, cores: float) -> None:
        # Newer samples weigh more instead of older ones less, so that no stored weight changes.
        bucket = max(0, math.ceil(math.log(max(cores, 1e-9) / FIRST_BUCKET_CORES, BUCKET_GROWTH)))
        weight = 2.0 ** (now / self._half_life_s)
        self._weights[bucket] = self._weights.get(bucket, 0.0) + weight

    def percentile(self, share: float) -> float:
        """The upper edge, in cores, of the bucket at fraction `share` of the weight; 0 without a sample."""
        left = share * sum(self._weights.values())
        for bucket in sorted(self._weights):
            left -= self._weights[bucket]
            if left <= 0:
                return float(FIRST_BUCKET_CORES * BUCKET_GROWTH**bucket)
        return 0.0


class Vpa:
    """One replica at the recommended CPU, rounded up to the service's steps.

    Args:
        confidence_s: the age of the samples at which the upper end of the band is twice what they say; 0: it is narrow
            from the start.
        min_change: share of the present size by which the target has to differ to be applied within the band, too.
    """

    dispatch = "fifo"

    def __init__(
        self,
        service: Service,
        half_life_s: float = 86_400.0,
        interval_s: float = 60.0,
        confidence_s: float = 0.0,
        min_change: float = math.inf,
    ) -> None:
        self.interval_s = interval_s
        self._service = service
        self._histogram = DecayingHistogram(half_life_s)
        self._confidence_s = confidence_s
        self._min_change = min_change
        self._first_at = math.inf

    def arrived(self, now: float, request: Request) -> None:
        """Ignores requests and looks only at CPU use."""

    def plan(self, state: Observation) -> Size:
        if state.now > 0:
            self._histogram.add(state.now, state.used_cores)
            self._first_at = min(self._first_at, state.now)
        lower, target, upper = (MARGIN * self._histogram.percentile(share) for share in (0.5, 0.9, 0.95))
        if self._confidence_s > 0:
            unsure = self._confidence_s / max(state.now - self._first_at, 1e-9)
            lower, upper = lower * (1 + LOWER_WIDENING * unsure) ** -2, upper * (1 + UPPER_WIDENING * unsure)
        differs = abs(target - state.size.cores) >= self._min_change * state.size.cores
        if (lower <= state.size.cores <= upper and not differs) or target == 0:
            return state.size
        wanted = max(target, LEAST_CORES)
        sizes = self._service.sizes
        return Size(next((size for size in sizes if size >= wanted), sizes[-1]), self._service.max_batch)
