"""The fewest core-seconds in which anyone, knowing all arrivals beforehand, could answer every request in time.

A lower bound, not a policy: it relaxes the real problem, and no schedule that misses nothing is billed less. Relaxed
are (1) batches: a request pays its even share k*l(b, k)/b of the cheapest batch that could ever hold it, whether or not
the others of that batch would agree; (2) work can be stopped, resumed and spread over cores at any moment inside a
request's window from arrival to deadline; (3) the size follows at once, without steps, down to the smallest size. Pure.

Why it holds. A batch of b requests on k threads takes k*l(b, k) core-seconds, all of them inside the windows of all its
requests. So each request takes part in at least `_least_share` core-seconds of work inside its own window. A size that
varies over time is billed at least `min_cores` throughout; what it is billed beyond that is at least the work that does
not fit into `min_cores`, and earliest deadline first fits as much into a fixed capacity as can be (an exchange
argument: work with the nearer deadline has no later use for the capacity that the other one lacks).
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Sequence

from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel

__all__ = ["clairvoyant_core_seconds"]


def clairvoyant_core_seconds(
    requests: Sequence[Request],
    model: LatencyModel,
    *,
    max_batch: int,
    max_threads: int,
    min_cores: float,
    duration_s: float,
) -> float:
    """The bound in core-seconds over [0, `duration_s`].

    Left out are requests that nobody could meet, and those that may be answered after the account is closed.

    Args:
        requests: ascending in arrival.
        max_threads: most threads of one batch.
        min_cores: the smallest size, billed also while nothing is to be done.
    """
    charged = [request for request in requests if request.deadline <= duration_s]
    windows = _windows(charged, model, max_batch, max_threads)
    work_s = sum(share for _, _, share in windows)
    if min_cores > 0:
        work_s -= _fits(windows, min_cores)
    return min_cores * duration_s + work_s


_Window = tuple[float, float, float]
"""Arrival, deadline, core-seconds of work."""


def _windows(requests: Sequence[Request], model: LatencyModel, max_batch: int, max_threads: int) -> list[_Window]:
    """Every request that can be met at all, with the least work that it takes."""
    arrivals = [request.arrival for request in requests]
    deadlines = sorted(request.deadline for request in requests)
    windows = []
    for request in requests:
        # Only requests whose windows overlap can share a batch: those that came before this one is due, less those
        # that were due before this one came.
        overlapping = bisect_left(arrivals, request.deadline) - bisect_left(deadlines, request.arrival)
        share = _least_share(request.deadline - request.arrival, min(max_batch, overlapping), model, max_threads)
        if share is not None:
            windows.append((request.arrival, request.deadline, share))
    return windows


def _least_share(window_s: float, most: int, model: LatencyModel, max_threads: int) -> float | None:
    """The least k*l(b, k)/b of a batch of at most `most` that ends within `window_s`; None when none does."""
    shares = [
        threads * took_s / batch
        for threads in range(1, max_threads + 1)
        for batch in range(1, most + 1)
        if (took_s := model.latency(batch, threads)) <= window_s
    ]
    return min(shares, default=None)


def _fits(windows: Sequence[_Window], cores: float) -> float:
    """The most work, in core-seconds, that `cores` > 0 can do inside the windows."""
    waiting: list[tuple[float, float]] = []  # deadline and work left, earliest deadline first
    done = now = 0.0
    for arrival, deadline, work in [*windows, (math.inf, math.inf, 0.0)]:
        while waiting and now < arrival:
            due, left = heapq.heappop(waiting)
            took_s = max(0.0, min(left / cores, due - now, arrival - now))
            now += took_s
            done += took_s * cores
            left -= took_s * cores
            if left > 1e-12 and due > now:
                heapq.heappush(waiting, (due, left))
        now = max(now, arrival)
        heapq.heappush(waiting, (deadline, work))
    return done
