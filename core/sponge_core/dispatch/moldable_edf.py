"""The dispatch rule of Sponge, moldable EDF: which requests to launch now, and on how many threads each batch runs.

The rule is a pure function of the queue, the running batches, the cores and the latency models, and takes the time as
an argument. `plan_step` is the rule on bare deadlines; a projection replays it thousands of times a second. `decide`
applies it to a queue of requests for the server and the simulator.

A server may hold several models. One EDF order spans all of them, and they share cores and lanes; a batch holds
requests of one model. Deadlines are one ascending list for each model, so that a batch is a slice of its model's list.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from sponge_core.cpu_sharing import CpuLoad, Running, thread_budget
from sponge_core.dispatch.batch_sizing import cheapest_batch
from sponge_core.dispatch.decision import Decision, DispatchState, Launch, Limits, Shed, shed_lost
from sponge_core.dispatch.idle_start import start_if_idle
from sponge_core.dispatch.load_shedding import Demand, LoadShedder
from sponge_core.dispatch.size_matching import Match, RowCosts, cheapest_match
from sponge_core.dispatch.sized_edf import plan_sized_step
from sponge_core.dispatch.step import (
    HOLDS_TRIED,
    MOST_AT_ONCE,
    Step,
    StepLaunch,
    earliest,
    fastest_s,
    least_slack_s,
    spare_threads,
)
from sponge_core.latency import LatencyModel

__all__ = ["decide", "plan_step"]


def decide(state: DispatchState, *, sacrifice: bool = True, match: Match = cheapest_match) -> Decision:
    """Launches and sheds requests by moldable EDF; the others keep waiting. An idle server starts what it can.

    Args:
        sacrifice: under overload, shed requests for the benefit of others.
        match: finds a batch among requests that differ in size.
    """
    now, queue, running, cores, models, limits, _ = state
    if not len(queue):
        return Decision((), (), None)
    for model in models:
        if model.sizes is not None:
            return _decide_sized(state, sacrifice, match)
    fastest = [fastest_s(model, limits.max_cores) for model in models]
    demand = Demand(queue.slos, queue.rates(now)) if sacrifice else None
    step = plan_step(now, queue.deadlines, running, cores, models, limits, fastest, demand)
    launches = [
        Launch(tuple(queue.waiting(launch.model, launch.first, launch.batch)), launch.threads, launch.work_s)
        for launch in step.launches
    ]
    lost = [request for model, count in enumerate(step.lost) for request in queue.waiting(model, 0, count)]
    sheds = [shed_lost(request, fastest[request.model]) for request in lost]
    sheds += [Shed(queue.waiting(model, index, 1)[0], "sacrificed") for model, index in step.sacrificed]
    sheds.sort(key=lambda shed: (shed.request.deadline, shed.request.id))
    return start_if_idle(state, Decision(tuple(launches), tuple(sheds), step.wake_at))


def _decide_sized(state: DispatchState, sacrifice: bool, match: Match) -> Decision:
    now, queue, running, cores, models, limits, _ = state
    costs = RowCosts(models, limits.max_cores)
    demand = Demand(queue.slos, queue.rates(now), queue.sizes) if sacrifice else None
    step = plan_sized_step(now, queue.deadlines, queue.sizes, running, cores, costs, limits, demand, match)
    launches = [
        Launch(
            tuple(queue.waiting(launch.model, index, 1)[0] for index in launch.members), launch.threads, launch.work_s
        )
        for launch in step.launches
    ]
    sheds = [Shed(queue.waiting(model, index, 1)[0], "sacrificed") for model, index in step.sacrificed]
    for model, index in step.lost_singly:
        request = queue.waiting(model, index, 1)[0]
        sheds.append(shed_lost(request, costs.of(model, request.size).fastest_s))
    sheds.sort(key=lambda shed: (shed.request.deadline, shed.request.id))
    return start_if_idle(state, Decision(tuple(launches), tuple(sheds), step.wake_at))


def plan_step(
    now: float,
    waiting: Sequence[Sequence[float]],
    running: Sequence[Running],
    cores: float,
    models: Sequence[LatencyModel],
    limits: Limits,
    fastest: Sequence[float],
    demand: Demand | None = None,
) -> Step:
    """Applies the dispatch rule to waiting deadlines.

    1. A request that cannot finish even alone on the largest size is lost.
    2. For the earliest remaining deadline, of all (b, k) that fit the free threads and end in time, the one with the
       fewest core-seconds per request, k*l(b, k)/b, starts now (on ties, the larger b).
    3. With `demand`, and only under overload: a request that would cost more answers than it is worth is sacrificed
       instead. While no thread is free, so is one that only its long wait put before requests with a far shorter SLO.
    4. If no batch fits the free threads but one will when running batches end, threads are held for it. Later requests
       may backfill only what it then leaves free. (A batch that ends before then needs no case of its own: the held
       request would have fitted into so long a gap.)
    5. If no batch fits these cores at all, the request waits for a larger size, and later requests pass it.

    Args:
        now, running, cores, models, limits: as in `DispatchState`.
        waiting: the waiting deadlines: one ascending list for each model.
        fastest: by model, `fastest_s` on the largest size.
        demand: the load; None: sacrifice nothing.
    """
    launches: list[StepLaunch] = []
    sacrificed: list[tuple[int, int]] = []
    lost = [0] * len(waiting)
    for each, deadlines in enumerate(waiting):
        if deadlines and deadlines[0] < now + fastest[each]:
            lost[each] = bisect_left(deadlines, now + fastest[each])
    load = CpuLoad(now, cores, list(running))
    budget = thread_budget(cores)
    free, lanes = budget - load.threads, limits.lanes - len(load.running)
    shedder = demand and LoadShedder(demand, models, limits)
    spare: int | None = None  # once threads are held: those free then that the held request does not need
    holds_tried = 0
    wake_at = math.inf
    heads = lost.copy()
    if shedder and (free <= 0 or lanes <= 0) and cores >= limits.max_cores:
        for each, deadlines in enumerate(waiting):
            overtaken = shedder.overtaken(now, each, deadlines, lost[each])
            sacrificed += [(each, index) for index in overtaken[: MOST_AT_ONCE - len(sacrificed)]]
    while free > 0 and lanes > 0 and (model := earliest(waiting, heads)) is not None:
        deadlines, first, latency = waiting[model], heads[model], models[model]
        slack_s = deadlines[first] - now
        most = min(len(deadlines) - first, min(limits.batch_cap, latency.max_batch))
        may_take = free if spare is None else min(free, spare)
        chosen = None
        if shedder and budget > cores and shedder.saturated:
            # The last, shared thread will be wanted while this batch runs: the batch must bear that, or it idles.
            chosen = cheapest_batch(latency, slack_s, most, may_take, load, crowd=budget)
        chosen = chosen or cheapest_batch(latency, slack_s, most, may_take, load)
        sacrifice = False
        if shedder and (chosen is None or chosen.threads > 1 or chosen.batch < most):
            best = chosen or cheapest_batch(latency, slack_s, most, budget, CpuLoad(now, cores, []))
            # A request that only a larger size could serve waits for the plan to grow.
            may = bool(best or cores >= limits.max_cores)
            sacrifice = may and shedder.worth_shedding(now, model, deadlines, first, best)
        if sacrifice:
            sacrificed.append((model, first))
            heads[model] += 1
            if len(sacrificed) == MOST_AT_ONCE:
                return Step(launches, lost, sacrificed, now + 1e-6)
            continue
        if chosen is not None:
            launches.append(StepLaunch(model, first, chosen.batch, chosen.threads, chosen.work_s))
            load.add(Running(chosen.threads, chosen.work_s, deadlines[first]))
            free -= chosen.threads
            lanes -= 1
            if spare is not None:
                spare -= chosen.threads
            heads[model] += chosen.batch
            continue
        wake_at = min(wake_at, deadlines[first] - fastest[model])
        if spare is None and holds_tried < HOLDS_TRIED:
            spare = spare_threads(latency, slack_s, load, budget)
            holds_tried += 1
        heads[model] = first + 1
        if spare is not None or holds_tried == HOLDS_TRIED:
            # Skip the requests with less slack than a single request needs: none of them can start.
            least_s = least_slack_s(latency, free if spare is None else min(free, spare), load)
            heads[model] = max(first + 1, bisect_left(deadlines, now + least_s))
    # Between events only time changes the fate of a waiting request: decide again when one is lost.
    for model, deadlines in enumerate(waiting):
        if heads[model] < len(deadlines):
            wake_at = min(wake_at, deadlines[heads[model]] - fastest[model])
    return Step(launches, lost, sacrificed, None if wake_at == math.inf else wake_at + 1e-6)
