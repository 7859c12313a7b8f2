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
from dataclasses import dataclass
from typing import Final

from sponge_core.cpu_sharing import CpuLoad, Running, speed_of, stall_of, thread_budget
from sponge_core.dispatch.batch_sizing import cheapest_batch
from sponge_core.dispatch.decision import Decision, DispatchState, Launch, Limits, Shed
from sponge_core.dispatch.load_shedding import Demand, LoadShedder
from sponge_core.latency import LatencyModel

__all__ = ["Step", "StepLaunch", "decide", "earliest", "fastest_s", "plan_step"]

MOST_AT_ONCE: Final = 8
"""The most requests that one decision sacrifices, so that it stays short; the next decision follows at once."""

HOLDS_TRIED: Final = 3
"""The number of requests that a decision tries to hold threads for; later ones have more slack and less need."""


@dataclass(init=False, slots=True)
class StepLaunch:
    """A batch to start: `batch` deadlines of `model` from index `first` of its list."""

    model: int
    first: int
    batch: int
    threads: int
    work_s: float

    # Here and in `Step` written out as in `Running`.
    def __init__(self, model: int, first: int, batch: int, threads: int, work_s: float) -> None:
        self.model = model
        self.first = first
        self.batch = batch
        self.threads = threads
        self.work_s = work_s


@dataclass(init=False, slots=True)
class Step:
    """The decision of `plan_step`, by index into each model's deadlines."""

    launches: list[StepLaunch]  # of one model: ascending in `first`
    lost: list[int]  # by model: how many of its first deadlines cannot be met any more
    sacrificed: list[tuple[int, int]]  # (model, index) of requests shed for the benefit of others
    wake_at: float | None

    def __init__(
        self, launches: list[StepLaunch], lost: list[int], sacrificed: list[tuple[int, int]], wake_at: float | None
    ) -> None:
        self.launches = launches
        self.lost = lost
        self.sacrificed = sacrificed
        self.wake_at = wake_at


def fastest_s(model: LatencyModel, cores: float, margin: float = 1.0) -> float:
    """The least time in which `cores` cores can answer one request alone, in seconds.

    Args:
        margin: factor on the model's time, to allow for its error.
    """
    budget = thread_budget(cores)
    least = math.inf
    for threads in range(1, budget + 1):
        speed = speed_of(cores, threads)
        least = min(least, model.latency(1, threads) * margin / speed + stall_of(speed))
    return least


def decide(state: DispatchState, *, sacrifice: bool = True) -> Decision:
    """Launches and sheds requests by moldable EDF; the others keep waiting.

    Args:
        sacrifice: under overload, shed requests for the benefit of others.
    """
    now, queue, running, cores, models, limits = state
    if not len(queue):
        return Decision((), (), None)
    fastest = [fastest_s(model, limits.max_cores) for model in models]
    demand = Demand(queue.slos, queue.rates(now)) if sacrifice else None
    step = plan_step(now, queue.deadlines, running, cores, models, limits, fastest, demand)
    launches = [
        Launch(tuple(queue.waiting(launch.model, launch.first, launch.batch)), launch.threads, launch.work_s)
        for launch in step.launches
    ]
    lost = [request for model, count in enumerate(step.lost) for request in queue.waiting(model, 0, count)]
    sheds = [Shed(r, "hopeless" if r.deadline - r.arrival < fastest[r.model] else "expired") for r in lost]
    sheds += [Shed(queue.waiting(model, index, 1)[0], "sacrificed") for model, index in step.sacrificed]
    sheds.sort(key=lambda shed: (shed.request.deadline, shed.request.id))
    return Decision(tuple(launches), tuple(sheds), step.wake_at)


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
    shedder = demand and LoadShedder(demand, models, limits.batch_cap, limits.lanes, limits.max_cores)
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
            spare = _spare_threads(latency, slack_s, load, budget)
            holds_tried += 1
        heads[model] = first + 1
        if spare is not None or holds_tried == HOLDS_TRIED:
            # Skip the requests with less slack than a single request needs: none of them can start.
            least_s = _least_slack_s(latency, free if spare is None else min(free, spare), load)
            heads[model] = max(first + 1, bisect_left(deadlines, now + least_s))
    # Between events only time changes the fate of a waiting request: decide again when one is lost.
    for model, deadlines in enumerate(waiting):
        if heads[model] < len(deadlines):
            wake_at = min(wake_at, deadlines[heads[model]] - fastest[model])
    return Step(launches, lost, sacrificed, None if wake_at == math.inf else wake_at + 1e-6)


def earliest(waiting: Sequence[Sequence[float]], heads: Sequence[int]) -> int | None:
    """The model with the earliest next deadline, the first one on ties; None when every list is at its end.

    Args:
        waiting: the waiting deadlines by model.
        heads: by model, the index of its next deadline.
    """
    if len(waiting) == 1:
        return 0 if heads[0] < len(waiting[0]) else None
    soonest, found = math.inf, None
    for model, deadlines in enumerate(waiting):
        if heads[model] < len(deadlines) and deadlines[heads[model]] < soonest:
            soonest, found = deadlines[heads[model]], model
    return found


def _spare_threads(model: LatencyModel, slack_s: float, load: CpuLoad, budget: int) -> int | None:
    """Threads left over at the first end of a batch that lets a request with `slack_s` start; None if none does."""
    used, cores = load.threads, load.cores
    speed = speed_of(cores, used)
    by_end = sorted(load.running, key=lambda batch: batch.left_s)
    for ended, batch in enumerate(by_end, start=1):
        at = batch.left_s / speed
        if at >= slack_s:
            return None
        used -= batch.threads
        margin = (1.0 + model.error) * model.slowdown(len(by_end) - ended)
        for threads in range(1, budget - used + 1):
            then = speed_of(cores, used + threads)
            if at + model.latency(1, threads) * margin / then + stall_of(then) <= slack_s:
                return budget - used - threads
    return None


def _least_slack_s(model: LatencyModel, threads: int, load: CpuLoad) -> float:
    """The slack below which not even one request can start on up to `threads` more threads.

    Infinite if none can start at any slack, as when the running batches need the rest of a fractional core.
    """
    margin = (1.0 + model.error) * model.slowdown(len(load.running))
    least = math.inf
    for more in range(1, threads + 1):
        speed = speed_of(load.cores, load.threads + more)
        if speed == 1.0 or load.tolerates(more):
            # Never more than `cheapest_batch` asks for, whatever the rounding.
            least = min(least, (model.latency(1, more) * margin / speed + stall_of(speed)) * (1.0 - 1e-9))
    return least
