"""As Symphony (arXiv 2308.07470): deferred dispatch. A batch starts as late as its head allows, because a later batch
is a fuller one, but not later than a further request could still join."""

from __future__ import annotations

from collections.abc import Sequence

from sponge_core.dispatch.plain import Plain
from sponge_core.latency import LatencyModel
from sponge_core.queueing import Request

__all__ = ["Symphony"]


class Symphony(Plain):
    """Earliest deadline first; a batch waits until one more request would no longer fit under its head's deadline."""

    def __init__(self) -> None:
        super().__init__(by_deadline=True, drop="hopeless")

    def size(self, now: float, line: Sequence[Request], model: LatencyModel, cap: int, threads: int) -> int:
        room = (line[0].deadline - now) / (1.0 + model.error)
        return max(1, model.largest_batch(room, threads, cap))

    def start(self, now: float, line: Sequence[Request], size: int, model: LatencyModel, threads: int) -> float:
        if len(line) >= size:
            return now
        latest = line[0].deadline - model.latency(len(line) + 1, threads) * (1.0 + model.error)
        return latest if latest > now + 1e-6 else now
