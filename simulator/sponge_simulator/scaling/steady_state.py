"""Steady-state formulas that several policies use: which (cores, batch) meets a deadline, and at what rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sponge_core.latency import LatencyModel
from sponge_simulator.scaling.interface import Service, Size

__all__ = ["Configuration", "configurations", "fill_s", "most_throughput", "provisioned", "with_margin"]

NORMAL_99 = 2.326
"""The 99 % quantile of the standard normal distribution."""


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
    model: LatencyModel, cores: Sequence[float], max_batch: int, rate: float, left_s: float
) -> Iterator[Configuration]:
    """The configurations that answer within `left_s` seconds, with the 99th percentile of the time to fill a batch.

    Args:
        cores: the sizes to consider.
        rate: requests per second.
    """
    for size in cores:
        for batch in range(1, max_batch + 1):
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


def most_throughput(service: Service, cores: float, rate: float, left_s: float) -> Configuration | None:
    """The configuration with the most throughput of one size that answers within `left_s` seconds; None if none."""
    options = configurations(service.model, [cores], service.max_batch, rate, left_s)
    return max(options, key=lambda option: option.throughput, default=None)


def provisioned(service: Service, utilisation: float) -> Size:
    """The start of a horizontally scaled service: one-core replicas for its mean rate at this utilisation."""
    replicas = math.ceil(service.rate / (service.model.throughput(service.max_batch, 1) * utilisation))
    return Size(1.0, service.max_batch, min(service.max_replicas, max(1, replicas)))


def with_margin(rate: float, sigmas: float = 1.0) -> float:
    """A rate that Poisson arrivals with mean `rate` rarely exceed in one second: rate + sigmas * sqrt(rate)."""
    return rate + sigmas * math.sqrt(rate)
