"""Nexus's early drop (SOSP 2019).

Requests at the head with too little slack for a batch of the size that the load needs are dropped, so that the others
keep that size.
"""

from __future__ import annotations

from sponge_core.dispatch.decision import DispatchState, Shed
from sponge_core.dispatch.policies.plain import BySlack

__all__ = ["Nexus"]


class Nexus(BySlack):
    """Earliest deadline first; a batch is as large as its head's slack allows."""

    def sheds(self, state: DispatchState) -> list[Shed]:
        """Slides a window over each model's queue, and drops all requests before the first that can head a full one."""
        queue, limits = state.queue, state.limits
        lost: list[Shed] = []
        for model, deadlines in enumerate(queue.deadlines):
            latency = state.models[model]
            cap = min(limits.batch_cap, latency.max_batch)
            dropped = 0
            for index, deadline in enumerate(deadlines):
                window = min(cap, len(deadlines) - index)
                slo = queue.slos[model][index]
                # Ask no more of a request than its own SLO ever allowed.
                target = min(window, max(1, latency.largest_batch(slo / (1.0 + latency.error) * 0.9, 1, cap)))
                if state.now + latency.latency(target, 1) * (1.0 + latency.error) <= deadline:
                    break
                dropped = index + 1
            lost += [Shed(request, "expired") for request in queue.waiting(model, 0, dropped)]
        return lost
