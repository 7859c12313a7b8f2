"""As Triton's dynamic batcher: the oldest request waits up to a delay for a full batch; only what has expired is
dropped, and only when it is found."""

from __future__ import annotations

from collections.abc import Sequence

from sponge_core.dispatch.policies.plain import Plain
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel

__all__ = ["TritonLike"]


class TritonLike(Plain):
    """First come, first served; `delay_s` is the longest wait for a full batch while a lane is free."""

    def __init__(self, delay_s: float = 0.005) -> None:
        super().__init__(drop="expired")
        self._delay_s = delay_s

    def start(self, now: float, line: Sequence[Request], size: int, model: LatencyModel, threads: int) -> float:  # noqa: ARG002
        return now if len(line) >= size else line[0].arrival + self._delay_s
