"""What an idle server starts although it may end late.

The dispatch rule starts a batch only if it ends in time with an allowance for the profile's error. A request that has
time enough without the allowance alone would wait until it is lost. On a server that has nothing else to do nobody
loses by its start, so it starts. It also starts before batches of later deadlines if all of those can wait for it.

Only a server does so. A projection counts such a request as a miss, because sizes are chosen with the allowance.
"""

from __future__ import annotations

from collections.abc import Sequence

from sponge_core.cpu_sharing import speed_of, stall_of, thread_budget
from sponge_core.dispatch.decision import Decision, DispatchState, Launch
from sponge_core.dispatch.size_matching import RowCosts
from sponge_core.dispatch.step import answer_s
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel

__all__ = ["start_if_idle"]


def start_if_idle(state: DispatchState, decision: Decision, *, variants: bool = False) -> Decision:
    """The decision; on an idle server, with the first request that may still be in time where that costs no other one.

    Args:
        decision: of the dispatch rule in `state`.
        variants: whether cheaper variants may answer, where the request's floor allows it.
    """
    if state.running or len(decision.sheds) == len(state.queue):
        return decision
    starts = {request.id for launch in decision.launches for request in launch.requests}
    # Whoever waits behind the batches could lose by their delay.
    if starts and len(starts) + len(decision.sheds) + 1 != len(state.queue):
        return decision
    costs = RowCosts(state.models, state.cores)
    cheaper = [
        RowCosts([variant.latency for variant in each], state.cores) for each in (state.variants if variants else ())
    ]
    shed = {each.request.id for each in decision.sheds}
    for request in state.queue:
        if request.id in shed:
            continue
        if request.id in starts:
            return decision  # no later deadline goes before it
        launch = _alone(state, request, costs, request.model, 0)
        if request.model < len(cheaper):
            for number, variant in enumerate(state.variants[request.model]):
                if launch is None and variant.accuracy >= request.floor:
                    launch = _alone(state, request, cheaper[request.model], number, number + 1)
        if launch is None:
            continue
        if not starts:
            return Decision((launch,), decision.sheds, decision.wake_at)
        if _can_wait(state, decision.launches, launch):
            # The next decision says which of them start beside it.
            return Decision((launch,), decision.sheds, state.now + 1e-6)
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


def _can_wait(state: DispatchState, launches: Sequence[Launch], first: Launch) -> bool:
    """Whether these batches are still in time, with their allowance, if they start when `first` has ended with its."""
    until = state.now + _allowed_s(state, first, first.threads)
    threads = sum(launch.threads for launch in launches)
    return all(until + _allowed_s(state, each, threads) <= each.requests[0].deadline for each in launches)


def _allowed_s(state: DispatchState, launch: Launch, threads: int) -> float:
    """The most seconds that a batch may take while so many threads run."""
    speed = speed_of(state.cores, threads)
    return (1.0 + _latency_of(state, launch).error) * launch.work_s / speed + stall_of(speed)


def _latency_of(state: DispatchState, launch: Launch) -> LatencyModel:
    model = launch.requests[0].model
    return state.variants[model][launch.variant - 1].latency if launch.variant else state.models[model]
