"""Moldable EDF with one part after the other taken away, to measure what each part contributes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sponge_core.dispatch.decision import Decision, DispatchState
from sponge_core.dispatch.interface import Dispatcher
from sponge_core.dispatch.moldable_edf import decide
from sponge_core.dispatch.policies.plain import Plain
from sponge_core.dispatch.registry import Policy
from sponge_core.latency import LatencyModel

__all__ = ["VARIANTS", "Ablated"]


@dataclass(frozen=True, slots=True)
class Ablated(Dispatcher):
    """Moldable EDF with parts switched off.

    Attributes:
        sacrifice: under overload, shed requests for the benefit of others.
        threads_follow: use more threads for a tight deadline; else each batch runs on one.
        lanes: run batches side by side; else one at a time.
    """

    sacrifice: bool = True
    threads_follow: bool = True
    lanes: bool = True

    def decide(self, state: DispatchState) -> Decision:
        if not self.threads_follow:
            state = state._replace(models=[_serial(model) for model in state.models])
        if not self.lanes:
            state = state._replace(limits=replace(state.limits, lanes=1))
        return decide(state, sacrifice=self.sacrifice)


def _serial(model: LatencyModel) -> LatencyModel:
    """The same model on one thread, with nothing to gain from a second one."""
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


VARIANTS: dict[str, Policy] = {
    "no sacrifice": Policy(lambda: Ablated(sacrifice=False), "moldable EDF that gives nothing up for others"),
    "one thread": Policy(lambda: Ablated(threads_follow=False), "moldable EDF, every batch on one thread"),
    "one lane": Policy(lambda: Ablated(lanes=False), "moldable EDF, one batch at a time"),
    "fixed batch": Policy(
        lambda: Plain(by_deadline=True, drop="hopeless"), "by deadline, full batches whatever the slack, one thread"
    ),
    "fixed batch, no shedding": Policy(lambda: Plain(by_deadline=True), "the same, and nothing is ever dropped"),
}
"""By name: each variant in the order of the ablation."""
