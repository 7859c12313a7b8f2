"""The test by which the product's server refuses a request on its arrival.

Source: `sponge_server.refusals.refusal`, with the least work of a queue as `sponge_server.engine.scheduler` counts it.
"""

from __future__ import annotations

from bisect import bisect_left

from sponge_core.dispatch.step import fastest_s
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.latency import LatencyModel

__all__ = ["is_admitted"]


def is_admitted(request: Request, queue: EdfQueue, model: LatencyModel, max_batch: int, cores: float) -> bool:
    """Whether a request that arrives can be answered in time after those that are due before it.

    Args:
        cores: the most that a plan may give, without what the server itself uses.
    """
    due = queue.deadlines[request.model] if request.model < len(queue.deadlines) else ()
    row_s = min(model.latency(1, 1), model.latency(max_batch, 1) / max_batch)
    ahead_s = bisect_left(due, request.deadline) * row_s / cores
    return request.deadline - request.arrival > fastest_s(model, cores) + ahead_s
