"""Steady states of replicas of one size, which several policies use; the formulas are the core's."""

from __future__ import annotations

import math

from sponge_core.planning.steady_state import Configuration, configurations
from sponge_simulator.scaling.interface import Service, Size

__all__ = ["most_throughput", "provisioned", "with_margin"]


def most_throughput(service: Service, cores: float, rate: float, left_s: float) -> Configuration | None:
    """The configuration with the most throughput of one size that answers within `left_s` seconds; None if none."""
    options = configurations(service.model, [cores], service.batches, rate, left_s)
    return max(options, key=lambda option: option.throughput, default=None)


def provisioned(service: Service, utilisation: float) -> Size:
    """The start of a horizontally scaled service: replicas for its mean rate at this utilisation.

    A replica counts as its cores times one thread's throughput, so this is for replicas of at most one core.
    """
    each = service.model.throughput(service.max_batch, 1) * service.replica_cores
    replicas = math.ceil(service.rate / (each * utilisation))
    return Size(service.replica_cores, service.max_batch, min(service.max_replicas, max(1, replicas)))


def with_margin(rate: float, sigmas: float = 1.0) -> float:
    """A rate that Poisson arrivals with mean `rate` rarely exceed in one second: rate + sigmas * sqrt(rate)."""
    return rate + sigmas * math.sqrt(rate)
