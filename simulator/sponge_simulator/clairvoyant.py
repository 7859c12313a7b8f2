"""The clairvoyant bound: the fewest core-seconds that answer every request in time, with all arrivals known in advance.

It is a lower bound, not a policy: it relaxes the real problem, and no schedule without a miss is billed less. The
relaxations are: (1) Batches: a request pays its even share k*l(b, k)/b of the cheapest batch that could ever hold it,
whether or not that batch suits the others in it, and as if the others had its own size. (2) Work can be stopped,
resumed and spread over cores at any moment within a request's window from arrival to deadline. (3) The size of the
service follows at once, without steps, down to the smallest.

Why it is a bound: a batch of b requests on k threads takes k*l(b, k) core-seconds, all of them within the windows of
all its requests. Padded to the largest row, or with each row's own time, it costs at least the sum of the shares that
its requests have in batches of their own size. So each request needs at least `_least_share` core-seconds of work
within its own window. A size that varies over time is billed at least `min_cores` throughout. Beyond that it is billed
at least the work that does not fit into `min_cores`, and earliest deadline first fits as much work into a fixed
capacity as possible (an exchange argument: capacity that the nearer deadline lacks is of no use to it later).
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

    It leaves out requests that no schedule could answer in time, and those due after `duration_s`.

    Args:
        requests: ascending in arrival.
        max_batch: the largest batch.
        max_threads: the most threads of one batch.
        min_cores: the smallest size, which is billed even while there is no work.
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
    """The windows of all requests that can be answered in time, with the least work that each takes."""
    arrivals = [request.arrival for request in requests]
    deadlines = sorted(request.deadline for request in requests)
    windows = []
    for request in requests:
        # Only requests with overlapping windows can share a batch: those that arrive before this one is due, minus
        # those that are due before this one arrives.
        overlapping = bisect_left(arrivals, request.deadline) - bisect_left(deadlines, request.arrival)
        window_s, most = request.deadline - request.arrival, min(max_batch, overlapping)
        share = _least_share(window_s, most, model.at(request.size), max_threads)
        if share is not None:
            windows.append((request.arrival, request.deadline, share))
    return windows


def _least_share(window_s: float, most: int, model: LatencyModel, max_threads: int) -> float | None:
    """The least k*l(b, k)/b of a batch of at most `most` requests that ends within `window_s`; None if none does."""
    shares = [
        threads * took_s / batch
        for threads in range(1, max_threads + 1)
        for batch in range(1, most + 1)
        if (took_s := model.latency(batch, threads)) <= window_s
    ]
    return min(shares, default=None)


def _fits(windows: Sequence[_Window], cores: float) -> float:
    """The most work, in core-seconds, that `cores` > 0 can do within the windows."""
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
