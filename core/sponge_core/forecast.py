"""What is about to arrive: the recent rate with a stochastic margin, and the recent distribution of remaining SLO.

Fed with every arrival on the caller's clock; draws nothing at random, so a plan can be replayed.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

__all__ = ["Arrival", "Forecaster"]

BIN_S: Final = 0.25

GOLDEN: Final = (math.sqrt(5.0) - 1.0) / 2.0

TIGHTEST: Final = 0.1
"""Share of the recent arrivals, those with the least left, that the forecast's margin is made of."""


@dataclass(init=False, slots=True, order=True)
class Arrival:
    """A request to come: when it can be queued, when its answer is due, and of which model it is."""

    at: float
    deadline: float
    model: int = 0

    def __init__(self, at: float, deadline: float, model: int = 0) -> None:  # for the reason that `Running` gives
        self.at = at
        self.deadline = deadline
        self.model = model


class Forecaster:
    """Keeps the arrivals of the last `window_s` seconds.

    The margin is `sigmas` standard deviations of a Poisson count over the horizon: n + sigmas*sqrt(n) arrivals are
    expected where n is the mean. Those of the margin are of the tightest: a surprise that can wait for a larger size
    needs no cores kept ready.
    """

    def __init__(self, window_s: float = 5.0, sigmas: float = 0.5, recent_s: float = 2.0) -> None:
        self._window_s = window_s
        self._recent_s = recent_s
        self._sigmas = sigmas
        self._seen: deque[tuple[float, float, int]] = deque()
        self._started: float | None = None

    def observe(self, now: float, remaining_slo_s: float, model: int = 0) -> None:
        """A request for `model` arrived at `now` with so much of its SLO left (<= 0: lost on the way)."""
        if self._started is None:
            self._started = now
        self._seen.append((now, remaining_slo_s, model))
        self._forget(now)

    def rate(self, now: float) -> float:
        """Arrivals per second: the window's mean, or that of its recent part where that is significantly higher."""
        self._forget(now)
        if self._started is None or not self._seen:
            return 0.0
        lived = max(now - self._started, 0.25)
        mean = len(self._seen) / min(self._window_s, lived)
        span = min(self._recent_s, lived)
        recent = len([at for at, _, _ in self._seen if at > now - span]) / span
        if recent <= mean:
            return mean
        # A rise counts at once, but only by what exceeds its own standard error; arrivals in bursts make that larger.
        return max(mean, recent - math.sqrt(recent * self._dispersion(now) / span))

    def _dispersion(self, now: float) -> float:
        """Variance over mean of the counts in short bins: 1 for Poisson arrivals, more for bursts; at least 1."""
        bins = round(min(self._window_s, max(now - (self._started or now), BIN_S)) / BIN_S)
        counts = [0] * bins
        for at, _, _ in self._seen:
            counts[min(bins - 1, int((now - at) / BIN_S))] += 1
        mean = len(self._seen) / bins
        return max(1.0, sum([(count - mean) ** 2 for count in counts]) / bins / mean)

    def remaining_quantiles(self, now: float, at: tuple[float, ...]) -> list[float]:
        """Quantiles in 0..1 of the remaining SLO on arrival over the recent window; empty when nothing arrived."""
        values = sorted(left for _, left in self._recent(now))
        return [values[min(len(values) - 1, int(q * len(values)))] for q in at] if values else []

    def forecast(self, now: float, horizon_s: float) -> list[Arrival]:
        """Arrivals over (now, now + horizon_s], evenly spaced, their remaining SLO spread like the recent ones'."""
        mean = self.rate(now) * horizon_s
        values = self._recent(now)
        if mean <= 0 or not values:
            return []
        count = round(mean + self._sigmas * math.sqrt(mean))
        margin = count - round(mean)
        one_model = values[0][0] == values[-1][0]  # then they are in order of what is left already
        tightest = (values if one_model else sorted(values, key=_left))[: max(1, round(TIGHTEST * len(values)))]
        arrivals = []
        for i in range(count):
            before = i * margin // count  # of the margin's so far, which come evenly among the others
            if (i + 1) * margin // count > before:
                among, number = tightest, before
            else:
                among, number = values, i - before
            # A golden-ratio walk visits the quantiles evenly in every stretch of arrivals: no tight cluster by chance.
            quantile = ((number + 0.5) * GOLDEN) % 1.0
            at = now + (i + 0.5) * horizon_s / count
            model, left = among[int(quantile * len(among))]
            arrivals.append(Arrival(at, at + left, model))
        return arrivals

    def _recent(self, now: float) -> list[tuple[int, float]]:
        """(model, remaining SLO) of what arrived lately, sorted: the walk over it keeps the models' shares too."""
        self._forget(now)
        recent = [(model, left) for at, left, model in self._seen if at > now - self._recent_s and left > 0]
        return sorted(recent or [(model, left) for _, left, model in self._seen if left > 0])

    def _forget(self, now: float) -> None:
        while self._seen and self._seen[0][0] <= now - self._window_s:
            self._seen.popleft()


def _left(seen: tuple[int, float]) -> float:
    return seen[1]
