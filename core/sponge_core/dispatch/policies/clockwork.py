"""As Clockwork (OSDI 2020): the largest batch that the head's deadline allows, and a request is refused as soon as the
predicted schedule shows that it will be late, not when it is."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from sponge_core.cpu_sharing import Running, speed_of, thread_budget
from sponge_core.dispatch.moldable_edf import Limits, Shed, earliest
from sponge_core.dispatch.policies.plain import BySlack, allowed
from sponge_core.edf_queue import EdfQueue
from sponge_core.latency import LatencyModel

__all__ = ["Clockwork"]


class Clockwork(BySlack):
    """Earliest deadline first on lanes of one thread, by a schedule of everything that waits."""

    def sheds(
        self,
        now: float,
        queue: EdfQueue,
        running: Sequence[Running],
        cores: float,
        models: Sequence[LatencyModel],
        limits: Limits,
    ) -> list[Shed]:
        """Lays out what waits on the lanes, batch after batch; gives up whom no lane reaches in time."""
        budget = thread_budget(cores)
        speed = speed_of(cores, budget)
        lanes = [now + batch.left_s / speed for batch in running][:budget]
        lanes += [now] * (min(budget, limits.lanes) - len(lanes))
        heapq.heapify(lanes)
        lines = queue.deadlines
        places = [0] * len(lines)
        lost: list[Shed] = []
        while (model := earliest(lines, places)) is not None:
            place, latency = places[model], models[model]
            room = (lines[model][place] - lanes[0]) * speed
            batch = allowed(room, latency, min(limits.batch_cap, latency.max_batch, len(lines[model]) - place), 1)
            if batch:
                heapq.heapreplace(lanes, lanes[0] + latency.latency(batch, 1) / speed)
            else:
                lost += [Shed(request, "expired") for request in queue.waiting(model, place, 1)]
            places[model] += max(1, batch)
        return lost
