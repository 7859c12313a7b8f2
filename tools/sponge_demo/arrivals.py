"""When the demo's requests are sent: a rate that rises and falls eightfold, and a burst now and then.

Pure functions: the same arguments give the same arrivals on any machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sponge_workload.arrivals import poisson_arrivals

__all__ = ["Bursts", "Waves", "wave_arrivals"]

BURST_WITHIN_S = 0.1


@dataclass(frozen=True, slots=True)
class Waves:
    """A rate that rises from `low_rps` to `low_rps * times` and falls back, once in every `wave_s` seconds.

    Attributes:
        sharpness: above 1, crests are shorter and troughs are longer than those of a cosine.
    """

    low_rps: float
    times: float = 8.0
    wave_s: float = 50.0
    sharpness: float = 3.0

    @property
    def peak_rps(self) -> float:
        """The rate at the crests."""
        return self.low_rps * self.times

    def rate_at(self, at_s: float) -> float:
        """Requests per second at `at_s`, without the bursts."""
        height = (1.0 - math.cos(2.0 * math.pi * at_s / self.wave_s)) / 2.0
        return self.low_rps * math.pow(self.times, math.pow(height, self.sharpness))


@dataclass(frozen=True, slots=True)
class Bursts:
    """`requests` within 0.1 s, at one random moment of every `every_s` seconds."""

    every_s: float = 10.0
    requests: int = 4


def wave_arrivals(waves: Waves, bursts: Bursts, duration_s: float, seed: int) -> tuple[float, ...]:
    """Seconds of arrival in [0, duration_s), ascending: a Poisson process with the rate of `waves`, and `bursts`."""
    at_peak = poisson_arrivals(waves.peak_rps, duration_s, seed)
    rng = np.random.default_rng((seed, 1))
    draws = rng.random(len(at_peak)).tolist()
    times = [at for at, draw in zip(at_peak, draws, strict=True) if draw * waves.peak_rps < waves.rate_at(at)]
    for index in range(math.ceil(duration_s / bursts.every_s)):
        start_s = (index + float(rng.random())) * bursts.every_s
        times += (start_s + BURST_WITHIN_S * rng.random(bursts.requests)).tolist()
    return tuple(sorted(at for at in times if at < duration_s))
