"""As Nexus (SOSP 2019): early drop. Requests at the head whose slack is too short for a batch of the size that the load
needs are dropped, so that the rest keeps that size."""

from __future__ import annotations

from collections.abc import Sequence

from sponge_core.cpu_sharing import Running
from sponge_core.dispatch.moldable_edf import Limits, Shed
from sponge_core.dispatch.policies.plain import BySlack
from sponge_core.edf_queue import EdfQueue
from sponge_core.latency import LatencyModel

__all__ = ["Nexus"]


class Nexus(BySlack):
    """Earliest deadline first; the batch is as large as its head's slack allows."""

    def sheds(
        self,
        now: float,
        queue: EdfQueue,
        running: Sequence[Running],  # noqa: ARG002
        cores: float,  # noqa: ARG002
        models: Sequence[LatencyModel],
        limits: Limits,
    ) -> list[Shed]:
        """A sliding window over each model's queue: up to the first request that can head a full batch."""
        lost: list[Shed] = []
        for model, line in enumerate(queue.deadlines):
            latency = models[model]
            cap = min(limits.batch_cap, latency.max_batch)
            dropped = 0
            for index, deadline in enumerate(line):
                window = min(cap, len(line) - index)
                slo = queue.slos[model][index]
                # No more than its own SLO ever allowed it is asked of a request.
                target = min(window, max(1, latency.largest_batch(slo / (1.0 + latency.error) * 0.9, 1, cap)))
                if now + latency.latency(target, 1) * (1.0 + latency.error) <= deadline:
                    break
                dropped = index + 1
            lost += [Shed(request, "expired") for request in queue.waiting(model, 0, dropped)]
        return lost
