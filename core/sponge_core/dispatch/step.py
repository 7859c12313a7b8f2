"""What both forms of the dispatch rule share: the decision of a step, and its questions about threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sponge_core.cpu_sharing import CpuLoad, speed_of, stall_of, thread_budget
from sponge_core.latency import LatencyModel

__all__ = [
    "HOLDS_TRIED",
    "MOST_AT_ONCE",
    "Step",
    "StepLaunch",
    "answer_s",
    "earliest",
    "fastest_s",
    "least_slack_s",
    "remove_settled",
    "spare_threads",
]

MOST_AT_ONCE: Final = 8
"""The most requests that one decision sacrifices, so that it stays short; the next decision follows at once."""

HOLDS_TRIED: Final = 3
"""The number of requests that a decision tries to hold threads for; later ones have more slack and less need."""


@dataclass(init=False, slots=True)
class StepLaunch:
    """A batch to start: `batch` deadlines of `model` from index `first` of its list.

    `members`, ascending, says which ones where they do not follow one another; else it is empty.
    """

    model: int
    first: int
    batch: int
    threads: int
    work_s: float
    members: Sequence[int]

    # Here and in `Step` written out as in `Running`.
    def __init__(
        self, model: int, first: int, batch: int, threads: int, work_s: float, members: Sequence[int] = ()
    ) -> None:
        self.model = model
        self.first = first
        self.batch = batch
        self.threads = threads
        self.work_s = work_s
        self.members = members


@dataclass(init=False, slots=True)
class Step:
    """The decision of a step, by index into each model's deadlines."""

    launches: list[StepLaunch]  # of one model: ascending in `first`
    lost: list[int]  # by model: how many of its first deadlines cannot be met any more
    sacrificed: list[tuple[int, int]]  # (model, index) of requests shed for the benefit of others
    wake_at: float | None
    lost_singly: list[tuple[int, int]]  # (model, index) of others that cannot be met any more

    def __init__(
        self,
        launches: list[StepLaunch],
        lost: list[int],
        sacrificed: list[tuple[int, int]],
        wake_at: float | None,
        lost_singly: list[tuple[int, int]] | None = None,
    ) -> None:
        self.launches = launches
        self.lost = lost
        self.sacrificed = sacrificed
        self.wake_at = wake_at
        self.lost_singly = [] if lost_singly is None else lost_singly


def fastest_s(model: LatencyModel, cores: float, margin: float = 1.0) -> float:
    """The least time in which `cores` cores can answer one request alone, in seconds.

    Args:
        margin: factor on the model's time, to allow for its error.
    """
    least = math.inf
    for threads in range(1, thread_budget(cores) + 1):
        least = min(least, answer_s(model, cores, threads, margin))
    return least


def answer_s(model: LatencyModel, cores: float, threads: int, margin: float = 1.0) -> float:
    """The time in which `threads` threads answer one request alone on `cores` cores, in seconds; else as above."""
    speed = speed_of(cores, threads)
    return model.latency(1, threads) * margin / speed + stall_of(speed)


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


def spare_threads(model: LatencyModel, slack_s: float, load: CpuLoad, budget: int) -> int | None:
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


def least_slack_s(model: LatencyModel, threads: int, load: CpuLoad) -> float:
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


def remove_settled(step: Step, lists: list[list[float]]) -> int:
    """Removes the entries that a step launches or sheds from the lists, by model; returns how many it sheds."""
    launches, shed = step.launches, len(step.sacrificed)
    if len(step.lost_singly) > 0 or (len(launches) > 0 and len(launches[0].members) > 0):
        return _remove_listed(step, lists)
    # From the back, so that earlier indices stay valid.
    if shed:
        gone = [(launch.model, launch.first, launch.batch) for launch in launches]
        for model, first, number in sorted(gone + [(*place, 1) for place in step.sacrificed], reverse=True):
            del lists[model][first : first + number]
    else:
        for index in range(len(launches) - 1, -1, -1):
            launch = launches[index]
            del lists[launch.model][launch.first : launch.first + launch.batch]
    for model, lost in enumerate(step.lost):
        if lost:
            shed += lost
            del lists[model][:lost]
    return shed


def _remove_listed(step: Step, lists: list[list[float]]) -> int:
    """As `remove_settled` for a step that lists its requests one by one."""
    shed = step.sacrificed + step.lost_singly
    gone = [(launch.model, index) for launch in step.launches for index in launch.members]
    for model, index in sorted(gone + shed, reverse=True):
        del lists[model][index]
    return len(shed)
