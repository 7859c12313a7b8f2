"""As BentoML's adaptive batching: everything that waits makes the next batch, and the oldest is dropped when a linear
regression of batch times says that it would end later than one bound, the same for every request."""

from __future__ import annotations

from collections.abc import Sequence

from sponge_core.cpu_sharing import Running
from sponge_core.dispatch.moldable_edf import Limits, Shed
from sponge_core.dispatch.policies.plain import Plain
from sponge_core.edf_queue import EdfQueue
from sponge_core.latency import LatencyModel

__all__ = ["BentoMlLike"]


class BentoMlLike(Plain):
    """First come, first served; `max_latency_s` is the bound.

    The regression is the latency model on one thread, which is linear in the batch: it is taken as learned. BentoML
    also lets a batch wait for more, for less than its own average wait; beside batches of tens of milliseconds that is
    nothing.
    """

    def __init__(self, max_latency_s: float = 1.0) -> None:
        super().__init__()
        self._max_latency_s = max_latency_s

    def sheds(
        self,
        now: float,
        queue: EdfQueue,
        running: Sequence[Running],  # noqa: ARG002
        cores: float,  # noqa: ARG002
        models: Sequence[LatencyModel],
        limits: Limits,  # noqa: ARG002
    ) -> list[Shed]:
        """A lone request is never dropped before the bound itself has passed."""
        waiting = [len(line) for line in queue.deadlines]
        lost: list[Shed] = []
        for request in queue.by_arrival():
            ahead = waiting[request.model]
            expected = models[request.model].latency(ahead, 1) if ahead > 1 else 0.0
            if now - request.arrival + expected < self._max_latency_s:
                continue
            waiting[request.model] -= 1
            lost.append(Shed(request, "expired"))
        return lost
