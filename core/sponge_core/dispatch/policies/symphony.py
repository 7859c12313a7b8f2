"""Symphony's deferred dispatch (arXiv 2308.07470).

A batch starts as late as its head allows, because a later batch is a fuller one, but not later than one more request
could still join.
"""

from __future__ import annotations

from collections.abc import Sequence

from sponge_core.dispatch.policies.plain import BySlack
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel

__all__ = ["Symphony"]


class Symphony(BySlack):
    """Earliest deadline first; a batch waits until one more request would miss its head's deadline."""

    def __init__(self) -> None:
        super().__init__(drop="hopeless")

    def start(self, now: float, waiting: Sequence[Request], size: int, model: LatencyModel, threads: int) -> float:
        if len(waiting) >= size:
            return now
        latest = waiting[0].deadline - model.latency(len(waiting) + 1, threads) * (1.0 + model.error)
        return latest if latest > now + 1e-6 else now
