"""Clipper's adaptive batching (NSDI 2017).

The batch size grows by one while batches end in time, and shrinks by a tenth when one does not.
"""

from __future__ import annotations

from collections.abc import Sequence

from sponge_core.dispatch.policies.plain import Plain
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel

__all__ = ["Clipper"]

SHRINK = 0.9


class Clipper(Plain):
    """First come, first served, with batches sized by additive increase and multiplicative decrease; drops nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, float] = {}

    def size(self, now: float, waiting: Sequence[Request], model: LatencyModel, cap: int, threads: int) -> int:  # noqa: ARG002
        return min(cap, int(self._sizes.get(waiting[0].model, 1.0)))

    def ended(self, model: int, batch: int, in_time: bool) -> None:
        size = self._sizes.get(model, 1.0)
        if not in_time:
            self._sizes[model] = max(1.0, size * SHRINK)
        elif batch >= int(size):  # a batch that was not full says nothing about a larger one
            self._sizes[model] = size + 1.0
