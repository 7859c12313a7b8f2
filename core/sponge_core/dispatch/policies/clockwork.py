"""Clockwork's admission (OSDI 2020).

A batch is as large as its head's deadline allows. A request is refused as soon as the predicted schedule shows that it
will be late, not when it is late.
"""

from __future__ import annotations

import heapq

from sponge_core.cpu_sharing import speed_of, thread_budget
from sponge_core.dispatch.decision import DispatchState, Shed
from sponge_core.dispatch.policies.plain import BySlack, largest_in_time
from sponge_core.dispatch.step import earliest

__all__ = ["Clockwork"]


class Clockwork(BySlack):
    """Earliest deadline first on lanes of one thread, with a schedule of all waiting requests."""

    def sheds(self, state: DispatchState) -> list[Shed]:
        """Schedules the waiting requests on the lanes, batch by batch; returns those that no lane reaches in time."""
        now, queue, running, cores, models, limits, _ = state
        budget = thread_budget(cores)
        speed = speed_of(cores, budget)
        lanes = [now + batch.left_s / speed for batch in running][:budget]
        lanes += [now] * (min(budget, limits.lanes) - len(lanes))
        heapq.heapify(lanes)
        waiting = queue.deadlines
        heads = [0] * len(waiting)
        lost: list[Shed] = []
        while (model := earliest(waiting, heads)) is not None:
            head, latency = heads[model], models[model]
            room_s = (waiting[model][head] - lanes[0]) * speed
            most = min(limits.batch_cap, latency.max_batch, len(waiting[model]) - head)
            batch = largest_in_time(room_s, latency, most, 1)
            if batch:
                heapq.heapreplace(lanes, lanes[0] + latency.latency(batch, 1) / speed)
            else:
                lost += [Shed(request, "expired") for request in queue.waiting(model, head, 1)]
            heads[model] += max(1, batch)
        return lost
