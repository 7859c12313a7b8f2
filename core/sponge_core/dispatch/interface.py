"""What every dispatch policy is: something that decides what to start now, and may learn from how batches ended.

Pure like the rest of the core: time comes in as an argument. The server and the simulator hold one of these and know no
more about it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from sponge_core.cpu_sharing import Running
from sponge_core.dispatch.moldable_edf import Decision, Limits
from sponge_core.edf_queue import EdfQueue
from sponge_core.latency import LatencyModel

__all__ = ["Dispatcher"]


class Dispatcher(ABC):
    """A dispatch policy. The arguments of `decide` are those of `sponge_core.dispatch.moldable_edf.decide`."""

    @abstractmethod
    def decide(
        self,
        now: float,
        queue: EdfQueue,
        running: Sequence[Running],
        cores: float,
        models: Sequence[LatencyModel],
        limits: Limits,
    ) -> Decision:
        """What to launch and what to shed now, and when to ask again at the latest. The queue is read, not changed."""

    def ended(self, model: int, batch: int, in_time: bool) -> None:  # noqa: B027 - most policies do not learn
        """A batch of so many requests ended; `in_time`: before the earliest deadline in it."""
