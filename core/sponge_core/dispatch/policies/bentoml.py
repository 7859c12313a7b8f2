"""A policy like BentoML's adaptive batching.

All waiting requests make the next batch. The oldest is dropped when a linear regression of batch times predicts that it
will end later than one bound, which is the same for every request.
"""

from __future__ import annotations

from sponge_core.dispatch.decision import DispatchState, Shed
from sponge_core.dispatch.policies.plain import Plain

__all__ = ["BentoMlLike"]


class BentoMlLike(Plain):
    """First come, first served, with a bound on the latency.

    The regression is taken as learned: it is the latency model on one thread, which is linear in the batch. BentoML
    also lets a batch wait for more requests, for less than its own average wait; that is negligible beside batches of
    tens of milliseconds.

    Args:
        max_latency_s: the bound, in seconds since arrival.
    """

    def __init__(self, max_latency_s: float = 1.0) -> None:
        super().__init__()
        self._max_latency_s = max_latency_s

    def sheds(self, state: DispatchState) -> list[Shed]:
        """The requests that would end after the bound; a lone request is dropped only once the bound has passed."""
        waiting = [len(deadlines) for deadlines in state.queue.deadlines]
        lost: list[Shed] = []
        for request in state.queue.by_arrival():
            ahead = waiting[request.model]
            expected = state.models[request.model].latency(ahead, 1) if ahead > 1 else 0.0
            if state.now - request.arrival + expected < self._max_latency_s:
                continue
            waiting[request.model] -= 1
            lost.append(Shed(request, "expired"))
        return lost
