"""Moldable EDF, the product's own rule, and the same without one of its parts for an ablation.

The rule itself is `sponge_core.dispatch.moldable_edf`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sponge_core.cpu_sharing import Running
from sponge_core.dispatch.interface import Dispatcher
from sponge_core.dispatch.moldable_edf import Decision, Limits, decide
from sponge_core.edf_queue import EdfQueue
from sponge_core.latency import LatencyModel

__all__ = ["MoldableEdf"]


@dataclass(frozen=True, slots=True)
class MoldableEdf(Dispatcher):
    """The cheapest (b, k) for the earliest deadline, on lanes side by side.

    Attributes:
        sacrifice: gives requests up under overload for the sake of others.
        threads_follow: a tight deadline buys threads; else every batch runs on one.
        lanes: batches side by side; else one at a time.
    """

    sacrifice: bool = True
    threads_follow: bool = True
    lanes: bool = True

    def decide(
        self,
        now: float,
        queue: EdfQueue,
        running: Sequence[Running],
        cores: float,
        models: Sequence[LatencyModel],
        limits: Limits,
    ) -> Decision:
        if not self.threads_follow:
            models = [_serial(model) for model in models]
        if not self.lanes:
            limits = replace(limits, lanes=1)
        return decide(now, queue, running, cores, models, limits, sacrifice=self.sacrifice)


def _serial(model: LatencyModel) -> LatencyModel:
    """The same on one thread, with nothing to gain from a second one."""
    model = model.scaled(model.by_threads[0] if model.by_threads else 1.0)
    return replace(
        model,
        gamma=0.0,
        delta=model.gamma + model.delta,
        epsilon=0.0,
        eta=model.epsilon + model.eta,
        by_threads=(),
        by_cell=model.by_cell[:1],
    )
