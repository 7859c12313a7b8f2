"""The dispatch of the paper's prototype: one batch at a time on all cores, by deadline, nothing dropped."""

from __future__ import annotations

from sponge_core.cpu_sharing import thread_budget
from sponge_core.dispatch.decision import Decision, DispatchState, Limits
from sponge_core.dispatch.interface import Dispatcher
from sponge_core.dispatch.policies.plain import Plain

__all__ = ["EdfSingleLane"]


class EdfSingleLane(Dispatcher):
    """Each batch has as many threads as there are cores, and as many requests as the cap, whatever the slack."""

    def decide(self, state: DispatchState) -> Decision:
        if state.running:
            return Decision((), (), None)
        # Whole threads only: a thread without a full core would throttle all of them.
        threads = max(1, int(state.cores + 1e-9))
        one = Plain(threads=min(threads, thread_budget(state.cores)), by_deadline=True)
        limits = Limits(state.limits.batch_cap, 1, state.limits.max_cores)
        return one.decide(state._replace(cores=float(threads), limits=limits))
