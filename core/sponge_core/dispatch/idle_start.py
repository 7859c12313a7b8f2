"""What an idle server starts although it may end late.

The dispatch rule starts a batch only if it ends in time with an allowance for the profile's error. A request that has
time enough without the allowance alone would wait until it is lost. On a server that has nothing else to do nobody
loses by its start, so it starts.

Only a server does so. A projection counts such a request as a miss, because sizes are chosen with the allowance.
"""

from __future__ import annotations

from sponge_core.cpu_sharing import thread_budget
from sponge_core.dispatch.decision import Decision, DispatchState, Launch
from sponge_core.dispatch.size_matching import RowCosts
from sponge_core.dispatch.step import answer_s
from sponge_core.edf_queue import Request

__all__ = ["start_if_idle"]


def start_if_idle(state: DispatchState, decision: Decision, *, variants: bool = False) -> Decision:
    """The decision; where an idle server would start nothing, with the first request that may still be in time.

    Args:
        decision: of the dispatch rule in `state`.
        variants: whether cheaper variants may answer, where the request's floor allows it.
    """
    if state.running or decision.launches or len(decision.sheds) == len(state.queue):
        return decision
    costs = RowCosts(state.models, state.cores)
    cheaper = [
        RowCosts([variant.latency for variant in each], state.cores) for each in (state.variants if variants else ())
    ]
    shed = {each.request.id for each in decision.sheds}
    for request in state.queue:
        if request.id in shed:
            continue
        launch = _alone(state, request, costs, request.model, 0)
        if request.model < len(cheaper):
            for number, variant in enumerate(state.variants[request.model]):
                if launch is None and variant.accuracy >= request.floor:
                    launch = _alone(state, request, cheaper[request.model], number, number + 1)
        if launch is not None:
            return Decision((launch,), decision.sheds, decision.wake_at)
    return decision


def _alone(state: DispatchState, request: Request, costs: RowCosts, model: int, variant: int) -> Launch | None:
    """The request on the threads that answer it soonest, the fewest on ties; None if that is too late.

    Args:
        costs, model: of what answers it, on the cores in force.
    """
    cost = costs.of(model, request.size)
    if state.now + cost.fastest_s > request.deadline:
        return None
    budget = range(1, thread_budget(state.cores) + 1)
    threads = min(budget, key=lambda count: answer_s(cost.latency, state.cores, count))
    return Launch((request,), threads, cost.latency.latency(1, threads), variant)
