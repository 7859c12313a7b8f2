"""Decides which requests to launch now, and on how many threads each batch runs: moldable EDF.

A pure function of the queue, the running batches, the cores and the latency model. Knows nothing of sockets, torch or
Kubernetes, and never reads a clock: the server calls it with the loop's time, an experiment with virtual time.

`plan_step` is the rule itself on bare deadlines; `decide` dresses it with requests for the server, and the planner's
projection replays it thousands of times a second without building any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sponge_core.latency import LatencyModel
from sponge_core.queueing import EdfQueue, Request
from sponge_core.running import CFS_PERIOD_S, Running, speed_of, stall_of, thread_budget

__all__ = ["Decision", "Launch", "Limits", "Shed", "Step", "StepLaunch", "decide", "fastest_s", "plan_step"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a decision.

    Attributes:
        batch_cap: largest batch, >= 1 (the planner's b, never above what the model takes).
        lanes: lanes that exist and are healthy, >= 1: at most so many batches run at once.
        max_cores: the most cores that the plan may still give; a request is shed only if it is hopeless on these.
    """

    batch_cap: int
    lanes: int
    max_cores: float


@dataclass(frozen=True, slots=True)
class Launch:
    """One batch to start now."""

    requests: tuple[Request, ...]  # earliest deadline first
    threads: int  # k of this batch; the sum over running batches stays within the thread budget
    work_s: float  # predicted seconds at full speed


@dataclass(frozen=True, slots=True)
class Shed:
    """A request that cannot be met; answer it now.

    `hopeless`: it could not have been met even when it arrived. `expired`: it was lost while it waited.
    """

    request: Request
    reason: Literal["hopeless", "expired"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now. Every queued request is in at most one of `launches` and `sheds`; the rest keep waiting."""

    launches: tuple[Launch, ...]
    sheds: tuple[Shed, ...]
    wake_at: float | None  # decide again then, even if nothing happens before; None: nothing to wait for


class StepLaunch(NamedTuple):
    """`batch` deadlines from index `first` start as one batch."""

    first: int
    batch: int
    threads: int
    work_s: float


class Step(NamedTuple):
    """`plan_step`'s answer, by index into its deadlines."""

    launches: list[StepLaunch]
    lost: int  # the first `lost` deadlines cannot be met any more
    wake_at: float | None


def fastest_s(model: LatencyModel, cores: float) -> float:
    """The least time in which one request can be answered alone on `cores` cores, seconds."""
    budget = thread_budget(cores)
    return min(model.latency(1, k) / speed_of(cores, k) + stall_of(speed_of(cores, k)) for k in range(1, budget + 1))


def decide(
    now: float, queue: EdfQueue, running: Sequence[Running], cores: float, model: LatencyModel, limits: Limits
) -> Decision:
    """Launches, sheds or waits, under moldable EDF. The queue is read, not changed.

    Args:
        now: seconds on the caller's clock; deadlines in `queue` and `running` are on the same one.
        running: the batches that run now, with their work left.
        cores: the quota in force, > 0, may be a fraction.
    """
    if not len(queue):
        return Decision((), (), None)
    requests = list(queue)
    fastest = fastest_s(model, limits.max_cores)
    step = plan_step(now, [r.deadline for r in requests], running, cores, model, limits, fastest)
    return Decision(
        tuple(
            Launch(tuple(requests[launch.first : launch.first + launch.batch]), launch.threads, launch.work_s)
            for launch in step.launches
        ),
        tuple(Shed(r, "hopeless" if r.deadline - r.arrival < fastest else "expired") for r in requests[: step.lost]),
        step.wake_at,
    )


def plan_step(
    now: float,
    deadlines: Sequence[float],
    running: Sequence[Running],
    cores: float,
    model: LatencyModel,
    limits: Limits,
    fastest: float,
) -> Step:
    """The dispatch rule on ascending `deadlines`.

    1. What cannot finish even alone on the most cores (`fastest` seconds, see `fastest_s`) is lost.
    2. For the earliest surviving deadline, of all (b, k) that fit the free threads and end in time, the one with the
       fewest core-seconds per request, k*l(b, k)/b, starts now (ties: the larger b).
    3. If none fits what is free but one will when running batches end, threads are held for it; later requests may
       backfill only what it leaves free then. (A batch that ends before then is no case of its own: with a gap that
       long the held request itself would have fitted.)
    4. If none fits at these cores at all, it waits for the plan to grow, and later requests pass it.
    """
    launches: list[StepLaunch] = []
    total = len(deadlines)
    first_alive = 0
    while first_alive < total and deadlines[first_alive] < now + fastest:
        first_alive += 1
    if first_alive == total:
        return Step(launches, first_alive, None)

    active = list(running)
    used = sum(batch.threads for batch in active)
    budget = thread_budget(cores)
    free, lanes = budget - used, limits.lanes - len(active)
    spare: int | None = None  # once threads are held: those free then that the held request does not need
    first_waiting: int | None = None
    index = first_alive
    while index < total and free > 0 and lanes > 0:
        slack = deadlines[index] - now
        most = min(total - index, limits.batch_cap)
        choice = _cheapest(slack, most, free if spare is None else min(free, spare), used, active, now, cores, model)
        if choice is not None:
            launches.append(StepLaunch(index, choice.batch, choice.threads, choice.work_s))
            active.append(Running(choice.threads, choice.work_s, deadlines[index]))
            used += choice.threads
            free -= choice.threads
            lanes -= 1
            if spare is not None:
                spare -= choice.threads
            index += choice.batch
            continue
        if first_waiting is None:
            first_waiting = index
        if spare is None:
            spare = _spare_beside(slack, active, budget, cores, model)
        index += 1
    if first_waiting is None and index < total:
        first_waiting = index
    # Nothing but time can change the fate of a waiting request between events: look again when it is lost.
    wake_at = None if first_waiting is None else deadlines[first_waiting] - fastest + 1e-6
    return Step(launches, first_alive, wake_at)


class _Choice(NamedTuple):
    batch: int
    threads: int
    work_s: float


def _cheapest(
    slack: float,
    most: int,
    free: int,
    used: int,
    active: Sequence[Running],
    now: float,
    cores: float,
    model: LatencyModel,
) -> _Choice | None:
    """The (b, k) with the fewest core-seconds per request that ends within `slack`, or None."""
    best: _Choice | None = None
    best_cost = float("inf")
    margin = (1.0 + model.error) * model.slowdown(len(active))
    for threads in range(1, free + 1):
        speed = speed_of(cores, used + threads)
        stall = CFS_PERIOD_S * (1.0 - speed)
        batch = model.largest_batch((slack - stall) * speed / margin, threads, most)
        if batch == 0 or (used + threads > cores and not _tolerable(active, used, threads, now, cores)):
            continue
        work = model.latency(batch, threads)
        cost = threads * work / batch
        alone = model.latency(1, threads)
        if alone * threads < cost:  # only with a negative fixed part, as in the published fits
            batch, work, cost = 1, alone, alone * threads
        if cost < best_cost - 1e-12 or (cost < best_cost + 1e-12 and best is not None and batch > best.batch):
            best, best_cost = _Choice(batch, threads, work * model.slowdown(len(active))), cost
    return best


def _tolerable(active: Sequence[Running], used: int, more: int, now: float, cores: float) -> bool:
    """Whether the running batches stay in time when `more` threads start to share the quota with them."""
    before, after = speed_of(cores, used), speed_of(cores, used + more)
    for batch in active:
        room = batch.deadline - now
        if batch.left_s / before <= room < batch.left_s / after + stall_of(after):
            return False
    return True


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
