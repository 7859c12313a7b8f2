"""Ways to decide when a cheaper variant may answer, to compare with `sponge_core.dispatch.variant_rule`.

Each says how many variants, from the most accurate on, a decision may use; floors hold in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from sponge_core.dispatch.decision import Decision, DispatchState
from sponge_core.dispatch.interface import Dispatcher
from sponge_core.dispatch.moldable_edf import decide
from sponge_core.dispatch.variants import flexible, levels, lines_at
from sponge_core.edf_queue import Request

__all__ = ["ByLevel", "Level", "by_backlog", "by_head", "by_rate", "by_slack", "cheapest"]

Level = Callable[[DispatchState], int]

FULL_LOAD = 0.95
"""A variant keeps up with arrivals that need this share of the cores."""


class ByLevel(Dispatcher):
    """Moldable EDF with the variants that `level` allows."""

    def __init__(self, level: Level) -> None:
        self._level = level

    def decide(self, state: DispatchState) -> Decision:
        if not flexible(state):
            return decide(state)
        level = self._level(state)
        return lines_at(state, level).plan(sacrifice=level == levels(state))


def cheapest(state: DispatchState) -> int:
    """Every request on the cheapest variant that its floor allows."""
    return levels(state)


def by_rate(state: DispatchState) -> int:
    """The first level that keeps up with the recent rate, as INFaaS chooses variants by load."""
    rate = state.queue.rates(state.now)[0]
    return _first(state, lambda level: rate * _mean_work(state, level) <= FULL_LOAD * state.cores)


def by_head(state: DispatchState) -> int:
    """The first level at which the earliest deadline that is left can still be met on the cores in force."""
    head = state.queue.waiting(0, 0, 1)[0]
    left_s = head.deadline - state.now
    threads = max(1, int(state.cores))
    return _first(state, lambda level: _row_s(state, head, level, 1, threads) * _margin(state) <= left_s)


def by_slack(state: DispatchState) -> int:
    """The first level whose batch of all that waits ends before the earliest deadline, as SuperServe's SlackFit."""
    head = state.queue.waiting(0, 0, 1)[0]
    batch = min(len(state.queue), state.limits.batch_cap)
    left_s = head.deadline - state.now
    return _first(state, lambda level: batch * _row_s(state, head, level, batch, 1) * _margin(state) <= left_s)


def by_backlog(state: DispatchState) -> int:
    """The first level at which, up to each deadline, the work due by then fits the cores."""
    waiting = state.queue.waiting(0, 0, len(state.queue))
    left_s = sum(batch.left_s * batch.threads for batch in state.running)
    batch = min(len(waiting), state.limits.batch_cap)

    def fits(level: int) -> bool:
        work = accumulate((_row_s(state, each, level, batch, 1) * _margin(state) for each in waiting), initial=left_s)
        next(work)
        return all(done <= state.cores * (each.deadline - state.now) for each, done in zip(waiting, work, strict=True))

    return _first(state, fits)


def _first(state: DispatchState, fits: Callable[[int], bool]) -> int:
    highest = levels(state)
    return next((level for level in range(highest) if fits(level)), highest)


def _margin(state: DispatchState) -> float:
    model = state.models[0]
    return (1.0 + model.error) * model.slowdown(max(0, int(state.cores) - 1))


def _row_s(state: DispatchState, request: Request, level: int, batch: int, threads: int) -> float:
    """The seconds of a row of the request in such a batch, on the cheapest of the first `level` variants it allows."""
    model = state.models[0]
    for variant in state.variants[0][:level]:
        if variant.accuracy >= request.floor:
            model = variant.latency
    return model.latency(batch, threads) / batch


def _mean_work(state: DispatchState, level: int) -> float:
    waiting = state.queue.waiting(0, 0, len(state.queue))
    cap = state.limits.batch_cap
    return _margin(state) * sum(_row_s(state, each, level, cap, 1) for each in waiting) / len(waiting)
