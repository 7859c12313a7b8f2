"""Decides which requests to launch now, and on how many threads each batch runs: moldable EDF.

A pure function of the queue, the running batches, the cores and the latency model. Knows nothing of sockets, torch or
Kubernetes, and never reads a clock: the server calls it with the loop's time, an experiment with virtual time.

`plan_step` is the rule itself on bare deadlines; `decide` dresses it with requests for the server, and the planner's
projection replays it thousands of times a second without building any.

A server may hold several models. One EDF order goes over all of them and they share cores and lanes; a batch holds
requests of one model. Deadlines come as one ascending list per model, so that a batch is a slice of its model's list.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sponge_core.cpu_sharing import Running, speed_of, stall_of, thread_budget
from sponge_core.dispatch.batch_sizing import cheapest, tolerable
from sponge_core.dispatch.load_shedding import Demand, Overload
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.latency import LatencyModel

__all__ = ["Decision", "Launch", "Limits", "Shed", "Step", "StepLaunch", "decide", "earliest", "fastest_s", "plan_step"]

MOST_AT_ONCE: Final = 8
"""Requests that one decision gives up at most, so that it stays short; the next one follows at once."""

HOLDS_TRIED: Final = 3
"""Requests that a decision looks at in order to hold threads; what waits behind them has more slack and less need."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a decision.

    Attributes:
        batch_cap: largest batch of any model, >= 1 (the planner's b); a model may take less.
        lanes: lanes that exist and are healthy, >= 1: at most so many batches run at once.
        max_cores: the most cores that the plan may still give; a request is shed only if it is hopeless on these.
    """

    batch_cap: int
    lanes: int
    max_cores: float


@dataclass(frozen=True, slots=True)
class Launch:
    """One batch to start now."""

    requests: tuple[Request, ...]  # of one model, earliest deadline first
    threads: int  # k of this batch; the sum over running batches stays within the thread budget
    work_s: float  # predicted seconds at full speed


@dataclass(frozen=True, slots=True)
class Shed:
    """A request that cannot be met; answer it now.

    `hopeless`: it could not have been met even when it arrived. `expired`: it was lost while it waited. `sacrificed`:
    under overload it would have cost other requests more than it is worth.
    """

    request: Request
    reason: Literal["hopeless", "expired", "sacrificed"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now. Every queued request is in at most one of `launches` and `sheds`; the rest keep waiting."""

    launches: tuple[Launch, ...]
    sheds: tuple[Shed, ...]
    wake_at: float | None  # decide again then, even if nothing happens before; None: nothing to wait for


@dataclass(init=False, slots=True)
class StepLaunch:
    """`batch` deadlines of `model` from index `first` of its list start as one batch."""

    model: int
    first: int
    batch: int
    threads: int
    work_s: float

    # Here and in `Step` for the reason that `Running` gives.
    def __init__(self, model: int, first: int, batch: int, threads: int, work_s: float) -> None:
        self.model = model
        self.first = first
        self.batch = batch
        self.threads = threads
        self.work_s = work_s


@dataclass(init=False, slots=True)
class Step:
    """`plan_step`'s answer, by index into each model's deadlines."""

    launches: list[StepLaunch]  # of one model: ascending in `first`
    lost: list[int]  # by model: so many of the first deadlines cannot be met any more
    sacrificed: list[tuple[int, int]]  # (model, index), given up for the sake of others
    wake_at: float | None

    def __init__(
        self, launches: list[StepLaunch], lost: list[int], sacrificed: list[tuple[int, int]], wake_at: float | None
    ) -> None:
        self.launches = launches
        self.lost = lost
        self.sacrificed = sacrificed
        self.wake_at = wake_at


def fastest_s(model: LatencyModel, cores: float, margin: float = 1.0) -> float:
    """The least time in which one request can be answered alone on `cores` cores, seconds.

    Args:
        margin: factor on the model's time, for its error.
    """
    budget = thread_budget(cores)
    least = math.inf
    for threads in range(1, budget + 1):
        speed = speed_of(cores, threads)
        least = min(least, model.latency(1, threads) * margin / speed + stall_of(speed))
    return least


def decide(
    now: float,
    queue: EdfQueue,
    running: Sequence[Running],
    cores: float,
    models: Sequence[LatencyModel],
    limits: Limits,
    *,
    sacrifice: bool = True,
) -> Decision:
    """Launches, sheds or waits, under moldable EDF. The queue is read, not changed.

    Args:
        now: seconds on the caller's clock; deadlines in `queue` and `running` are on the same one.
        running: the batches that run now, with their work left.
        cores: the quota in force, > 0, may be a fraction.
        models: by `Request.model`.
        sacrifice: whether overload may cost a request its answer for the sake of others.
    """
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
    """The dispatch rule on the deadlines that wait: by model, each list ascending.

    1. What cannot finish even alone on the most cores (`fastest` seconds, see `fastest_s`) is lost.
    2. For the earliest surviving deadline, of all (b, k) that fit the free threads and end in time, the one with the
       fewest core-seconds per request, k*l(b, k)/b, starts now (ties: the larger b).
    3. With `demand`, and only in overload: one that costs more answers than it is worth is sacrificed instead. While no
       thread is free, so are those whom only their long wait put before requests with far less time.
    4. If none fits what is free but one will when running batches end, threads are held for it; later requests may
       backfill only what it leaves free then. (A batch that ends before then is no case of its own: with a gap that
       long the held request itself would have fitted.)
    5. If none fits at these cores at all, it waits for the plan to grow, and later requests pass it.
    """
    launches: list[StepLaunch] = []
    sacrificed: list[tuple[int, int]] = []
    lost = [0] * len(waiting)
    for each, line in enumerate(waiting):
        if line and line[0] < now + fastest[each]:
            lost[each] = bisect_left(line, now + fastest[each])
    active, used = list(running), 0
    for batch in active:
        used += batch.threads
    budget = thread_budget(cores)
    free, lanes = budget - used, limits.lanes - len(active)
    overload = demand and Overload(demand, models, limits.batch_cap, limits.lanes, limits.max_cores)
    spare: int | None = None  # once threads are held: those free then that the held request does not need
    holds_tried = 0
    wake_at = math.inf
    heads = lost.copy()
    if overload and (free <= 0 or lanes <= 0) and cores >= limits.max_cores:
        for each, line in enumerate(waiting):
            given_way = overload.giving_way(now, each, line, lost[each])
            sacrificed += [(each, index) for index in given_way[: MOST_AT_ONCE - len(sacrificed)]]
    while free > 0 and lanes > 0 and (model := earliest(waiting, heads)) is not None:
        line, first, latency = waiting[model], heads[model], models[model]
        slack = line[first] - now
        most = min(len(line) - first, min(limits.batch_cap, latency.max_batch))
        may_take = free if spare is None else min(free, spare)
        choice = None
        if overload and budget > cores and overload.saturated:
            # Somebody will want the last, shared thread while this batch runs: it must bear that, or the thread idles.
            choice = cheapest(slack, most, may_take, used, active, now, cores, latency, crowd=budget)
        choice = choice or cheapest(slack, most, may_take, used, active, now, cores, latency)
        given_up = False
        if overload and (choice is None or choice.threads > 1 or choice.batch < most):
            best = choice or cheapest(slack, most, budget, 0, (), now, cores, latency)
            # What only a larger size could meet waits for the plan to grow.
            given_up = bool(best or cores >= limits.max_cores) and overload.gives_up(now, model, line, first, best)
        if given_up:
            sacrificed.append((model, first))
            heads[model] += 1
            if len(sacrificed) == MOST_AT_ONCE:
                return Step(launches, lost, sacrificed, now + 1e-6)
            continue
        if choice is not None:
            launches.append(StepLaunch(model, first, choice.batch, choice.threads, choice.work_s))
            active.append(Running(choice.threads, choice.work_s, line[first]))
            used += choice.threads
            free -= choice.threads
            lanes -= 1
            if spare is not None:
                spare -= choice.threads
            heads[model] += choice.batch
            continue
        wake_at = min(wake_at, line[first] - fastest[model])
        if spare is None and holds_tried < HOLDS_TRIED:
            spare = _spare_beside(slack, active, budget, cores, latency)
            holds_tried += 1
        heads[model] = first + 1
        if spare is not None or holds_tried == HOLDS_TRIED:
            # Nothing with less slack than one request needs can start: on to the first that can.
            least = _least_room(free if spare is None else min(free, spare), used, active, now, cores, latency)
            heads[model] = max(first + 1, bisect_left(line, now + least))
    # Nothing but time can change the fate of a waiting request between events: look again when it is lost.
    for model, line in enumerate(waiting):
        if heads[model] < len(line):
            wake_at = min(wake_at, line[heads[model]] - fastest[model])
    return Step(launches, lost, sacrificed, None if wake_at == math.inf else wake_at + 1e-6)


def earliest(waiting: Sequence[Sequence[float]], heads: Sequence[int]) -> int | None:
    """The model whose next deadline is the earliest, the first one on ties; None when every list is at its end."""
    if len(waiting) == 1:
        return 0 if heads[0] < len(waiting[0]) else None
    earliest, found = math.inf, None
    for model, line in enumerate(waiting):
        if heads[model] < len(line) and line[heads[model]] < earliest:
            earliest, found = line[heads[model]], model
    return found


def _spare_beside(
    slack: float, active: Sequence[Running], budget: int, cores: float, model: LatencyModel
) -> int | None:
    """Threads left over at the first moment when ended batches let a request with `slack` start; None: it never can."""
    used = sum(batch.threads for batch in active)
    speed = speed_of(cores, used)
    by_end = sorted(active, key=lambda batch: batch.left_s)
    for ended, batch in enumerate(by_end, start=1):
        at = batch.left_s / speed
        if at >= slack:
            return None
        used -= batch.threads
        margin = (1.0 + model.error) * model.slowdown(len(by_end) - ended)
        for threads in range(1, budget - used + 1):
            then = speed_of(cores, used + threads)
            if at + model.latency(1, threads) * margin / then + stall_of(then) <= slack:
                return budget - used - threads
    return None


def _least_room(
    threads: int, used: int, active: Sequence[Running], now: float, cores: float, model: LatencyModel
) -> float:
    """A slack below which not even one request can start on up to `threads` more threads; infinite when none can, as
    where a fraction of a core has to be left to the batches that run."""
    margin = (1.0 + model.error) * model.slowdown(len(active))
    least = math.inf
    for more in range(1, threads + 1):
        speed = speed_of(cores, used + more)
        if speed == 1.0 or tolerable(active, used, more, now, cores):
            # Never more than `cheapest` asks for, whatever the rounding.
            least = min(least, (model.latency(1, more) * margin / speed + stall_of(speed)) * (1.0 - 1e-9))
    return least
