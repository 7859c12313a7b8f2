"""Steady-state formulas: which (cores, batch) meets a deadline, at what rate, and how many cores a load takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from sponge_core.forecast import Arrival
from sponge_core.latency import LatencyModel

__all__ = ["Configuration", "configurations", "cores_per_rate", "fill_s", "load_cores"]

NORMAL_99 = 2.326
"""The 99 % quantile of the standard normal distribution."""

SIZES_TRIED = 8
"""Sizes of a pod, and sizes of a request, of which `load_cores` finds the best and the mean: its time is bounded."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A replica that runs one batch at a time on all its cores."""

    cores: float
    batch: int
    latency_s: float

    @property
    def throughput(self) -> float:
        """Requests per second with full batches."""
        return self.batch / self.latency_s

    @property
    def per_core(self) -> float:
        """Throughput per core."""
        return self.throughput / self.cores


def configurations(
    model: LatencyModel, cores: Sequence[float], batches: Sequence[int], rate: float, left_s: float
) -> Iterator[Configuration]:
    """The configurations that answer within `left_s` seconds, with the 99th percentile of the time to fill a batch.

    Args:
        cores: the sizes to consider.
        batches: the batch sizes to consider.
        rate: requests per second.
    """
    for size in cores:
        for batch in batches:
            latency_s = model.latency(batch, max(1, int(size))) / min(1.0, size)
            if latency_s + fill_s(batch, rate) <= left_s:
                yield Configuration(size, batch, latency_s)


def fill_s(batch: int, rate: float) -> float:
    """The 99th percentile of the seconds until `batch` - 1 more requests arrive at `rate` requests per second.

    That time has a Gamma(batch - 1, rate) distribution. Its quantile is by the cube formula of Wilson and Hilferty
    (1931), within 2 % from two requests on.
    """
    further = batch - 1
    if further == 0:
        return 0.0
    if rate <= 0:
        return math.inf
    if further == 1:
        return -math.log(0.01) / rate
    cube = 1 - 1 / (9 * further) + NORMAL_99 / (3 * math.sqrt(further))
    return further * cube**3 / rate


def cores_per_rate(
    model: LatencyModel, cores: Sequence[float], batches: Sequence[int], rate: float, left_s: float
) -> float:
    """Cores for a rate of one request per second, at the most efficient configuration; 0 if none is in time."""
    options = configurations(model, cores, batches, rate, left_s)
    return min((1 / option.per_core for option in options), default=0.0)


def load_cores(
    arrivals: Sequence[Arrival], rate: float, models: Sequence[LatencyModel], cores: Sequence[float], max_batch: int
) -> float:
    """Cores that a load takes at the most efficient configurations; what no size serves in time takes none.

    Args:
        arrivals: as forecast, with their models and sizes.
        rate: requests per second.
        models: by index, as the arrivals name them.
        cores: the sizes of a pod, ascending.
    """
    batches = [*(2**n for n in range((max_batch - 1).bit_length())), max_batch]
    tried, total = _spread(cores), 0.0
    for index, model in enumerate(models):
        own = [arrival for arrival in arrivals if arrival.model == index]
        if not own:
            continue
        left_s = fmean([arrival.deadline - arrival.at for arrival in own])
        own_rate = rate * len(own) / len(arrivals)
        sizes = _spread(sorted(arrival.size for arrival in own)) if model.sizes is not None else [1.0]
        total += own_rate * fmean([cores_per_rate(model.at(size), tried, batches, own_rate, left_s) for size in sizes])
    return total


def _spread(values: Sequence[float]) -> Sequence[float]:
    """All values, or evenly spread ones with both ends if there are many."""
    if len(values) <= SIZES_TRIED:
        return values
    return [values[round(n * (len(values) - 1) / (SIZES_TRIED - 1))] for n in range(SIZES_TRIED)]
