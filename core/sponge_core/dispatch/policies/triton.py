"""A policy like Triton's dynamic batcher.

The oldest request waits up to a delay for a full batch. Only expired requests are dropped, when a decision finds them.
"""

from __future__ import annotations

from collections.abc import Sequence

from sponge_core.dispatch.policies.plain import Plain
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel

__all__ = ["TritonLike"]


class TritonLike(Plain):
    """First come, first served.

    Args:
        delay_s: the longest wait for a full batch while a lane is free, in seconds.
    """

    def __init__(self, delay_s: float = 0.005) -> None:
        super().__init__(drop="expired")
        self._delay_s = delay_s

    def start(self, now: float, waiting: Sequence[Request], size: int, model: LatencyModel, threads: int) -> float:  # noqa: ARG002
        return now if len(waiting) >= size else waiting[0].arrival + self._delay_s
