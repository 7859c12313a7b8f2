"""The rule of Sponge, `sponge_core.dispatch.moldable_edf`, as a policy."""

from __future__ import annotations

from sponge_core.dispatch.decision import Decision, DispatchState
from sponge_core.dispatch.interface import Dispatcher
from sponge_core.dispatch.moldable_edf import decide
from sponge_core.dispatch.variant_rule import VariantRule

__all__ = ["MoldableEdf"]


class MoldableEdf(Dispatcher):
    """The cheapest (b, k) for the earliest deadline, on lanes side by side; cheaper variants only under overload."""

    def __init__(self) -> None:
        self._rule = VariantRule()

    def decide(self, state: DispatchState) -> Decision:
        return self._rule.decide(state) if state.variants else decide(state)
