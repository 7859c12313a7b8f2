"""Cheaper variants of a model: which waiting request runs on which.

Each model has a line of waiting requests, and so has each of its cheaper variants. Once every request has its line, the
lines are to the dispatch rule what models are: a batch holds requests of one line, and one deadline order spans all of
them. So the rule itself does not know variants.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final, NamedTuple

from sponge_core.dispatch.decision import Decision, DispatchState, Launch, Shed, shed_lost
from sponge_core.dispatch.load_shedding import Demand
from sponge_core.dispatch.moldable_edf import plan_step
from sponge_core.dispatch.size_matching import RowCosts, cheapest_match
from sponge_core.dispatch.sized_edf import plan_sized_step
from sponge_core.dispatch.step import Step
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_core.planning.projection import ProjectionInput, Replayer

__all__ = ["Lines", "flexible", "levels", "lines_at"]


LOOK: Final = 512
"""So many waiting requests of a model are looked at, or more if more can start. Later deadlines delay none of them, so
whether these are in time does not depend on the rest."""


class _Rung(NamedTuple):
    """What may answer a request: the number of its line, and the variant, 0 for the model itself."""

    line: int
    variant: int
    accuracy: float


class Lines:
    """The waiting requests by line.

    Args:
        state: of the decision.
        requests: by line, earliest deadline first.
        models: the latency models by line.
        of: by line, the model and the variant.
        costs: of rows by line, on the largest size that a plan may choose.
    """

    def __init__(
        self,
        state: DispatchState,
        requests: Sequence[Sequence[Request]],
        of: Sequence[tuple[int, int]],
        costs: RowCosts,
    ) -> None:
        self._state = state
        self._requests = requests
        self._of = of
        self._costs = costs
        self._models = costs.models
        self._deadlines = [[request.deadline for request in line] for line in requests]
        self._sizes = [[request.size for request in line] for line in requests]
        self._sized = any(model.sizes is not None for model in self._models)

    def misses(self, cores: float, after_s: float, enough: int = sys.maxsize) -> int:
        """How many requests that can still be answered in time will not be, if no further one arrives.

        Args:
            cores: the quota from `after_s` seconds on; until then the one in force rules.
            enough: stop at this number.
        """
        state = self._state
        sizes = self._sizes if self._sized else None
        given = ProjectionInput(state.now, self._deadlines, state.running, (), state.cores, after_s, sizes=sizes)
        return Replayer(given, self._models, state.limits.max_cores).run(cores, state.limits, enough=enough).misses

    def plan(self, *, sacrifice: bool) -> Decision:
        """What the dispatch rule does with these lines. `sacrifice`: as in `moldable_edf.decide`."""
        state, costs, limits = self._state, self._costs, self._state.limits
        demand = self._demand() if sacrifice else None
        if self._sized:
            step = plan_sized_step(
                state.now,
                self._deadlines,
                self._sizes,
                state.running,
                state.cores,
                costs,
                limits,
                demand,
                cheapest_match,
            )
        else:
            fastest = [costs.of(line, 1.0).fastest_s for line in range(len(self._models))]
            step = plan_step(
                state.now, self._deadlines, state.running, state.cores, self._models, limits, fastest, demand
            )
        return self._decision(step)

    def _demand(self) -> Demand:
        slos = [[request.deadline - request.arrival for request in line] for line in self._requests]
        rates = [*self._state.queue.rates(self._state.now), *(0.0 for _ in self._state.models)]
        waiting = [0] * len(self._state.models)
        for (model, _), line in zip(self._of, self._requests, strict=True):
            waiting[model] += len(line)
        # The next requests of a model are answered by its variants as the waiting ones are.
        shares = [
            rates[model] * len(line) / waiting[model] if waiting[model] else 0.0
            for (model, _), line in zip(self._of, self._requests, strict=True)
        ]
        return Demand(slos, shares, self._sizes if self._sized else ())

    def _decision(self, step: Step) -> Decision:
        launches = []
        for launch in step.launches:
            line = self._requests[launch.model]
            members = launch.members or range(launch.first, launch.first + launch.batch)
            batch = tuple(line[index] for index in members)
            launches.append(Launch(batch, launch.threads, launch.work_s, self._of[launch.model][1]))
        sheds = [Shed(self._requests[number][index], "sacrificed") for number, index in step.sacrificed]
        lost = [(number, index) for number, count in enumerate(step.lost) for index in range(count)]
        for number, index in lost + step.lost_singly:
            request = self._requests[number][index]
            sheds.append(shed_lost(request, self._costs.of(number, request.size).fastest_s))
        sheds.sort(key=lambda shed: (shed.request.deadline, shed.request.id))
        return Decision(tuple(launches), tuple(sheds), step.wake_at)


def levels(state: DispatchState) -> int:
    """The number of variants of the model that has most: the highest level of `lines_at`."""
    return max((len(variants) for variants in state.variants), default=0)


def flexible(state: DispatchState) -> bool:
    """Whether a cheaper variant may answer one of the waiting requests."""
    for model, (variants, waiting) in enumerate(zip(state.variants, state.queue.deadlines, strict=False)):
        if not variants:
            continue
        for request in state.queue.waiting(model, 0, min(len(waiting), LOOK)):
            if request.floor <= variants[0].accuracy:
                return True
    return False


def lines_at(state: DispatchState, level: int) -> Lines:
    """Each waiting request in the line of the cheapest of the first `level` variants that its floor allows.

    At level 0 that is the model itself. A request that its variant could not answer in time even alone on the largest
    size goes further down, as far as its floor allows; if no variant can, it is lost where it is. In a long queue, only
    the earliest deadlines of each model have a line now.
    """
    models: list[LatencyModel] = list(state.models)
    of = [(model, 0) for model in range(len(models))]
    ladders: list[list[_Rung]] = []
    for model, variants in enumerate(state.variants):
        ladders.append([])
        for number, variant in enumerate(variants, start=1):
            ladders[model].append(_Rung(len(models), number, variant.accuracy))
            models.append(variant.latency)
            of.append((model, number))
    costs = RowCosts(models, state.limits.max_cores)
    most = max(LOOK, state.limits.batch_cap * state.limits.lanes)
    requests: list[list[Request]] = [[] for _ in models]
    for model, waiting in enumerate(state.queue.deadlines):
        rungs = ladders[model] if model < len(ladders) else []
        for request in state.queue.waiting(model, 0, min(len(waiting), most)):
            requests[_line_of(request, rungs, level, costs, state.now)].append(request)
    return Lines(state, requests, of, costs)


def _line_of(request: Request, rungs: Sequence[_Rung], level: int, costs: RowCosts, now: float) -> int:
    found, first = request.model, 0
    for number, rung in enumerate(rungs[:level]):
        if rung.accuracy < request.floor:
            break
        found, first = rung.line, number + 1
    left_s, line = request.deadline - now, found
    while left_s < costs.of(line, request.size).fastest_s:
        if first == len(rungs) or rungs[first].accuracy < request.floor:
            return found
        line, first = rungs[first].line, first + 1
    return line
