"""Forecasts arrivals: the recent rate with a stochastic margin, the rest of a burst, and the recent distribution of
remaining SLO and size.

The caller reports every arrival. Nothing is drawn at random, so a plan can be replayed.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from sponge_core.bursts import BurstHistory

__all__ = ["Arrival", "Forecaster"]

BIN_S: Final = 0.25

GOLDEN: Final = (math.sqrt(5.0) - 1.0) / 2.0

TIGHTEST: Final = 0.1
"""The margin of a forecast repeats this share of the recent arrivals, those with the least time left."""


@dataclass(init=False, slots=True, order=True)
class Arrival:
    """An expected request: when it can be queued, when its answer is due (both in seconds), its model and its size."""

    at: float
    deadline: float
    model: int = 0
    size: float = 1.0

    def __init__(self, at: float, deadline: float, model: int = 0, size: float = 1.0) -> None:  # as in `Running`
        self.at = at
        self.deadline = deadline
        self.model = model
        self.size = size


class Forecaster:
    """Forecasts from the arrivals of the last `window_s` seconds.

    Where n arrivals are expected on average, the forecast has n + sigmas*sqrt(n): the margin is `sigmas` standard
    deviations of a Poisson count. The arrivals of the margin resemble the tightest recent ones, because an unexpected
    request that can wait for a resize needs no cores kept ready. Once the first requests of a burst have come, the
    forecast has the rest of it, as bursts before it had (`BurstHistory`).

    Args:
        window_s: length of the window in seconds.
        sigmas: standard deviations of the margin.
        recent_s: the recent part of the window, which shows a rise of the rate first.
    """

    def __init__(self, window_s: float = 5.0, sigmas: float = 0.5, recent_s: float = 2.0) -> None:
        self._window_s = window_s
        self._recent_s = recent_s
        self._sigmas = sigmas
        self._seen: deque[tuple[float, float, int, float]] = deque()
        self._started: float | None = None
        self._bursts = BurstHistory()

    def observe(self, now: float, remaining_slo_s: float, model: int = 0, size: float = 1.0) -> None:
        """Records that a request arrived with `remaining_slo_s` left; <= 0 means that the network used all of it."""
        if self._started is None:
            self._started = now
        if self._bursts.is_over(now):
            self._bursts.begin(now, self.rate(now))
        self._bursts.add()
        self._seen.append((now, remaining_slo_s, model, size))
        self._forget(now)

    def rate(self, now: float) -> float:
        """Arrivals per second: the mean of the window, or of its recent part if that is significantly higher."""
        self._forget(now)
        if self._started is None or not self._seen:
            return 0.0
        lived = max(now - self._started, 0.25)
        mean = len(self._seen) / min(self._window_s, lived)
        span = min(self._recent_s, lived)
        recent = len([at for at, _, _, _ in self._seen if at > now - span]) / span
        if recent <= mean:
            return mean
        # A rise counts at once, minus its own standard error, which is larger for arrivals in bursts.
        return max(mean, recent - math.sqrt(recent * self._dispersion(now) / span))

    def _dispersion(self, now: float) -> float:
        """Variance over mean of the counts in short bins: 1 for Poisson arrivals, more for bursts; at least 1."""
        bins = round(min(self._window_s, max(now - (self._started or now), BIN_S)) / BIN_S)
        counts = [0] * bins
        for at, _, _, _ in self._seen:
            counts[min(bins - 1, int((now - at) / BIN_S))] += 1
        mean = len(self._seen) / bins
        return max(1.0, sum([(count - mean) ** 2 for count in counts]) / bins / mean)

    def remaining_quantiles(self, now: float, at: tuple[float, ...]) -> list[float]:
        """Quantiles of the remaining SLO on arrival, in seconds, over the recent part; empty if nothing arrived.

        Args:
            at: quantiles in 0..1.
        """
        values = sorted(left for _, left, _ in self._recent(now))
        return [values[min(len(values) - 1, int(q * len(values)))] for q in at] if values else []

    def forecast(self, now: float, horizon_s: float) -> list[Arrival]:
        """Arrivals expected in (now, now + horizon_s], ascending, with the recent distribution of remaining SLO."""
        rate = self.rate(now)
        mean = rate * horizon_s
        values = self._recent(now)
        if mean <= 0 or not values:
            return []
        count = round(mean + self._sigmas * math.sqrt(mean))
        margin = count - round(mean)
        one_model = values[0][0] == values[-1][0]  # then they are already sorted by the time left
        tightest = (values if one_model else sorted(values, key=_left))[: max(1, round(TIGHTEST * len(values)))]
        arrivals = []
        for i in range(count):
            before = i * margin // count  # arrivals of the margin so far; they come evenly among the others
            if (i + 1) * margin // count > before:
                among, number = tightest, before
            else:
                among, number = values, i - before
            # A golden-ratio walk visits the quantiles evenly in any stretch of arrivals, so tight ones do not cluster.
            quantile = ((number + 0.5) * GOLDEN) % 1.0
            at = now + (i + 0.5) * horizon_s / count
            model, left, size = among[int(quantile * len(among))]
            arrivals.append(Arrival(at, at + left, model, size))
        further, until = self._bursts.further(now)
        span = min(until - now, horizon_s)
        further -= round(rate * span)
        for i in range(further):
            at = now + span * ((i + 1) / further)
            model, left, size = values[int(((count + i + 0.5) * GOLDEN) % 1.0 * len(values))]
            arrivals.append(Arrival(at, at + left, model, size))
        return sorted(arrivals) if further > 0 else arrivals

    def _recent(self, now: float) -> list[tuple[int, float, float]]:
        """(model, remaining SLO, size) of the recent arrivals, sorted, so that the walk keeps the models' shares.

        Remaining SLO and size stay together: long texts may be the patient ones.
        """
        self._forget(now)
        since = now - self._recent_s
        recent = [(model, left, size) for at, left, model, size in self._seen if at > since and left > 0]
        return sorted(recent or [(model, left, size) for _, left, model, size in self._seen if left > 0])

    def _forget(self, now: float) -> None:
        while self._seen and self._seen[0][0] <= now - self._window_s:
            self._seen.popleft()


def _left(seen: tuple[int, float, float]) -> float:
    return seen[1]
