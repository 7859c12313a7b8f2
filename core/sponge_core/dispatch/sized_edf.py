"""Moldable EDF for requests that differ in size: the rule of `moldable_edf`, with batches of near sizes.

The order is the same: the earliest deadline heads the next batch. What differs is who joins it (`size_matching`), and
that each request has its own least time. If all sizes are equal, it decides what `moldable_edf` decides.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from sponge_core.cpu_sharing import CpuLoad, Running, thread_budget
from sponge_core.dispatch.batch_sizing import cheapest_batch
from sponge_core.dispatch.decision import Limits
from sponge_core.dispatch.load_shedding import Demand, LoadShedder
from sponge_core.dispatch.size_matching import Match, RowCost, RowCosts, SizedLine, cheapest_match
from sponge_core.dispatch.step import (
    HOLDS_TRIED,
    MOST_AT_ONCE,
    Step,
    StepLaunch,
    earliest,
    least_slack_s,
    spare_threads,
)

__all__ = ["plan_sized_step"]


def plan_sized_step(
    now: float,
    waiting: Sequence[Sequence[float]],
    sizes: Sequence[Sequence[float]],
    running: Sequence[Running],
    cores: float,
    costs: RowCosts,
    limits: Limits,
    demand: Demand | None = None,
    match: Match = cheapest_match,
) -> Step:
    """Applies the dispatch rule to waiting deadlines and sizes.

    Args:
        now, waiting, running, cores, limits, demand: as in `plan_step`.
        sizes: in the order of `waiting`.
        costs: of the models, on the largest size that a plan may choose.
        match: finds the batch of a head.

    Returns:
        The members of each launch are listed, and lost requests are, too: they need not be the first ones.
    """
    launches: list[StepLaunch] = []
    sacrificed: list[tuple[int, int]] = []
    lost: list[tuple[int, int]] = []
    lines = [SizedLine(each, waiting[each], sizes[each]) for each in range(len(waiting))]
    for line in lines:
        for index in _lost(now, line, costs):
            lost.append((line.model, index))
            line.gone.add(index)
    load = CpuLoad(now, cores, list(running))
    budget = thread_budget(cores)
    free, lanes = budget - load.threads, limits.lanes - len(load.running)
    shedder = demand and LoadShedder(demand, costs.models, limits)
    spare: int | None = None
    holds_tried = 0
    wake_at = math.inf
    heads = [line.next(0) for line in lines]
    if shedder and (free <= 0 or lanes <= 0) and cores >= limits.max_cores:
        for line in lines:
            overtaken = shedder.overtaken(now, line.model, line.deadlines, heads[line.model])
            for index in overtaken[: MOST_AT_ONCE - len(sacrificed)]:
                sacrificed.append((line.model, index))
                line.gone.add(index)
            heads[line.model] = line.next(heads[line.model])
    while free > 0 and lanes > 0 and (model := earliest(waiting, heads)) is not None:
        line, first = lines[model], heads[model]
        own = costs.of(model, line.sizes[first]).latency
        slack_s = line.deadlines[first] - now
        most = min(len(line.deadlines) - first, min(limits.batch_cap, own.max_batch))
        may_take = free if spare is None else min(free, spare)
        chosen = None
        if shedder and budget > cores and shedder.saturated:
            chosen = match(costs, line, first, slack_s, most, may_take, load, budget)
        chosen = chosen or match(costs, line, first, slack_s, most, may_take, load, 0)
        sacrifice = False
        if shedder and (chosen is None or chosen.threads > 1 or len(chosen.members) < most):
            # Rows of one size stand for the batch, as they do for what it would have cost on arrival.
            best = cheapest_batch(own, slack_s, most, may_take, load)
            best = best or cheapest_batch(own, slack_s, most, budget, CpuLoad(now, cores, []))
            may = bool(best or cores >= limits.max_cores)
            sacrifice = may and shedder.worth_shedding(now, model, line.deadlines, first, best)
        if sacrifice:
            sacrificed.append((model, first))
            line.gone.add(first)
            heads[model] = line.next(first)
            if len(sacrificed) == MOST_AT_ONCE:
                return Step(launches, [0] * len(lines), sacrificed, now + 1e-6, lost)
            continue
        if chosen is not None:
            members = sorted(chosen.members)
            launches.append(StepLaunch(model, first, len(members), chosen.threads, chosen.work_s, members))
            load.add(Running(chosen.threads, chosen.work_s, line.deadlines[first]))
            free -= chosen.threads
            lanes -= 1
            if spare is not None:
                spare -= chosen.threads
            line.gone.update(members)
            heads[model] = line.next(first)
            continue
        if spare is None and holds_tried < HOLDS_TRIED:
            spare = spare_threads(own, slack_s, load, budget)
            holds_tried += 1
        heads[model] = line.next(first + 1)
        if spare is not None or holds_tried == HOLDS_TRIED:
            # Skip the requests with less slack than the lightest request needs: none of them can start.
            lightest = min([costs.of(model, size) for size in set(line.sizes)], key=_alone).latency
            least_s = least_slack_s(lightest, free if spare is None else min(free, spare), load)
            heads[model] = line.next(max(first + 1, bisect_left(line.deadlines, now + least_s)))
    for line in lines:
        wake_at = min(wake_at, _first_loss(line, costs))
    return Step(launches, [0] * len(lines), sacrificed, None if wake_at == math.inf else wake_at + 1e-6, lost)


def _lost(now: float, line: SizedLine, costs: RowCosts) -> list[int]:
    """The indices of requests that cannot finish even alone on the largest size."""
    slowest_s = _slowest_s(line, costs)
    found: list[int] = []
    for index, deadline in enumerate(line.deadlines):
        if deadline >= now + slowest_s:
            break
        if deadline < now + costs.of(line.model, line.sizes[index]).fastest_s:
            found.append(index)
    return found


def _slowest_s(line: SizedLine, costs: RowCosts) -> float:
    """The longest least time of the waiting requests. Corrected by octave, it need not be that of the largest."""
    return max([costs.of(line.model, size).fastest_s for size in set(line.sizes)], default=0.0)


def _alone(cost: RowCost) -> float:
    return cost.alone_s


def _first_loss(line: SizedLine, costs: RowCosts) -> float:
    """When the first of the requests that keep waiting is lost; infinite if none waits."""
    at, slowest_s = math.inf, _slowest_s(line, costs)
    for index, deadline in enumerate(line.deadlines):
        if deadline - slowest_s >= at:
            break
        if index not in line.gone:
            at = min(at, deadline - costs.of(line.model, line.sizes[index]).fastest_s)
    return at
