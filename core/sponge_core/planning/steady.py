"""The size for a steady request rate, known before anything runs: the answer of `sponge plan`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sponge_core.cpu_sharing import thread_budget
from sponge_core.dispatch.decision import Limits
from sponge_core.dispatch.step import fastest_s
from sponge_core.forecast import Arrival
from sponge_core.latency import LatencyModel
from sponge_core.planning.projection import Projection, ProjectionInput, Replayer

__all__ = ["plan_steady"]


def plan_steady(
    rate: float, remaining_slo_s: float, sizes_milli: Sequence[int], model: LatencyModel, max_batch: int
) -> tuple[int, Projection] | None:
    """The smallest size that serves a steady rate in time, with its projection.

    A size is enough if the queue does not grow without bound (h(b, c) >= lambda in "Sponge", EuroMLSys 2024, with one
    thread for each batch, which is the most that a core can do) and if a replay of ten SLOs meets every deadline, with
    `rate` plus one standard deviation of a Poisson count arriving evenly.

    Args:
        rate: requests per second.
        remaining_slo_s: seconds that each request has left on arrival.
        sizes_milli: the allowed sizes in millicores, ascending.
        max_batch: the largest batch, >= 1.

    Returns:
        The size in millicores and its projection; None when no size is enough.
    """
    horizon_s = 10 * remaining_slo_s
    mean = rate * horizon_s
    count = math.ceil(mean + math.sqrt(mean))
    times = [i * horizon_s / count for i in range(count)]
    arrivals = [Arrival(at, at + remaining_slo_s) for at in times]
    most_per_core = max(model.throughput(batch, 1) for batch in range(1, max_batch + 1))
    for milli in sizes_milli:
        cores = milli / 1000
        if rate > cores * most_per_core or remaining_slo_s < fastest_s(model, cores):
            continue
        limits = Limits(max_batch, thread_budget(cores), sizes_milli[-1] / 1000)
        replayer = Replayer(ProjectionInput(0.0, (), (), arrivals, cores, 0.0), [model], limits.max_cores)
        projection = replayer.run(cores, limits, enough=1)
        if projection.misses == 0:
            return milli, projection
    return None
