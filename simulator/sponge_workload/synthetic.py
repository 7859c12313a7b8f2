"""Synthetic traces with the statistics of recordings, to stand in for those that are not at hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np

from sponge_workload.arrivals import spread_counts
from sponge_workload.bandwidth import BandwidthTrace

__all__ = ["synthetic_4g", "synthetic_bursts"]

_4G_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_4G_MBIT_PER_S = (3.46, 7.08, 10.6, 20.8, 26.8, 34.3, 46.4, 51.2, 56.0)
_4G_AUTOREGRESSION = 0.762
"""Quantiles of the 4G uplink recorded on a bus in Ghent (van der Hooft et al., 2016), without any of its rows, and the
autoregression whose ranks, mapped through them, have the recording's correlation of 0.75 from second to second."""

_BYTES_PER_S_PER_MBIT = 125_000.0

_COUNTS: dict[str, tuple[tuple[float, ...], tuple[float, ...], float]] = {
    "twitter": ((0.0, 0.01, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0), (27, 32, 45, 53, 186, 231, 251, 274), 0.965),
    "azure-code": ((0.0, 0.73, 0.75, 0.95, 0.99, 1.0), (0, 0, 2, 13, 28, 67), 0.757),
}
"""Quantiles, the requests per second at them, and the correlation from second to second of two recordings: the public
Twitter stream of August 2021 (archive.org) and the Azure LLM inference trace 2023, code (Patel et al., ISCA 2024)."""


def synthetic_4g(duration_s: int, seed: int) -> BandwidthTrace:
    """A 4G uplink of `duration_s` >= 1 segments of one second, with the recording's distribution and persistence.

    Every seed has the same worst, median and best second, at different times.
    """
    rates = _persistent(_4G_QUANTILES, _4G_MBIT_PER_S, _4G_AUTOREGRESSION, duration_s, seed) * _BYTES_PER_S_PER_MBIT
    return BandwidthTrace(f"synthetic 4G (seed {seed})", tuple(rates.tolist()), (1.0,) * duration_s)


def synthetic_bursts(kind: Literal["twitter", "azure-code"], duration_s: float, seed: int) -> tuple[float, ...]:
    """Arrival times in [0, duration_s) with the bursts of a recording: its counts per second and their persistence."""
    quantiles, counts, autoregression = _COUNTS[kind]
    per_second = _persistent(quantiles, counts, autoregression, math.ceil(duration_s), seed)
    times = spread_counts([round(count) for count in per_second.tolist()], seed)
    return tuple(sorted(time for time in times if time < duration_s))


def _persistent(
    at: Sequence[float], values: Sequence[float], autoregression: float, count: int, seed: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A random series with a given quantile function and persistence.

    A first-order autoregression gives the order; its ranks are mapped through the quantiles.

    Args:
        at: quantiles in 0..1.
        values: the values at these quantiles.
        autoregression: the correlation of neighbours in the autoregression.
        count: length of the series.
    """
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(count)
    noise[1:] *= math.sqrt(1.0 - autoregression**2)
    series = list(accumulate(noise.tolist(), lambda before, new: autoregression * before + new))
    ranks = np.argsort(np.argsort(series)) / max(1, count - 1)
    return np.interp(ranks, at, values)
