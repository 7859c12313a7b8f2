"""Finds the cheapest batch of requests that differ in size: which ones, on how many threads.

The counterpart of `batch_sizing` for models with a `SizeCurve`. Its head is the earliest deadline; the others need not
follow it in the queue, because a padded batch costs as if each row had the largest size in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sponge_core.cpu_sharing import CFS_PERIOD_S, CpuLoad
from sponge_core.dispatch.step import fastest_s
from sponge_core.latency import LatencyModel

__all__ = ["Match", "MatchedBatch", "RowCost", "RowCosts", "SizedLine", "cheapest_match", "rooms_of"]

LOOK: Final = 32
"""So many waiting requests are considered for a batch, the earliest deadlines first."""

TIE: Final = 1e-12


@dataclass(init=False, slots=True)
class RowCost:
    """What one row of some size costs.

    Attributes:
        latency: the model of rows of this size.
        fastest_s: the least seconds in which the largest size of the server answers it.
        alone_s: core-seconds alone on one thread, by which batches are compared.
    """

    latency: LatencyModel
    fastest_s: float
    alone_s: float

    def __init__(self, latency: LatencyModel, fastest: float) -> None:  # written out as in `Running`
        self.latency = latency
        self.fastest_s = fastest
        self.alone_s = latency.latency(1, 1)


class RowCosts:
    """The costs of rows by model and size, each computed once.

    Args:
        max_cores: the largest size that a plan may choose.
    """

    def __init__(self, models: Sequence[LatencyModel], max_cores: float) -> None:
        self.models = models
        self._max_cores = max_cores
        self._found: list[dict[float, RowCost]] = [{} for _ in models]

    def of(self, model: int, size: float) -> RowCost:
        """The cost of a row of `model` with this size."""
        found = self._found[model]
        key = size if self.models[model].sizes is not None else 1.0
        cost = found.get(key)
        if cost is None:
            latency = self.models[model].at(size)
            cost = found[key] = RowCost(latency, fastest_s(latency, self._max_cores))
        return cost


@dataclass(init=False, slots=True)
class SizedLine:
    """The waiting requests of one model.

    Attributes:
        deadlines: ascending.
        sizes: in the order of `deadlines`.
        gone: indices of those that the present decision has launched or given up.
    """

    model: int
    deadlines: Sequence[float]
    sizes: Sequence[float]
    gone: set[int]

    def __init__(self, model: int, deadlines: Sequence[float], sizes: Sequence[float]) -> None:  # as in `Running`
        self.model = model
        self.deadlines = deadlines
        self.sizes = sizes
        self.gone = set()

    def next(self, first: int) -> int:
        """The first index from `first` on that is not gone; the number of requests if there is none."""
        while first in self.gone:
            first += 1
        return first

    def others(self, head: int) -> list[int]:
        """The indices after `head` that may join its batch."""
        found: list[int] = []
        for index in range(head + 1, len(self.deadlines)):
            if index not in self.gone:
                found.append(index)
                if len(found) == LOOK:
                    break
        return found


@dataclass(init=False, slots=True)
class MatchedBatch:
    """The members of a batch by index, the head first; threads and predicted seconds as in `BatchConfig`."""

    members: list[int]
    threads: int
    work_s: float

    def __init__(self, members: list[int], threads: int, work_s: float) -> None:  # written out as in `Running`
        self.members = members
        self.threads = threads
        self.work_s = work_s


Match = Callable[[RowCosts, SizedLine, int, float, int, int, CpuLoad, int], MatchedBatch | None]
"""A function with the arguments of `cheapest_match`."""


def cheapest_match(
    costs: RowCosts, line: SizedLine, head: int, slack_s: float, most: int, free: int, load: CpuLoad, crowd: int
) -> MatchedBatch | None:
    """The batch with `head` that spends the fewest core-seconds for what its rows would cost alone; None if none fits.

    Every waiting size from the head's on is tried as the largest of the batch, with the nearest sizes below it as the
    other members. A batch that would make a request late which it passes in the queue is not taken.

    Args:
        slack_s: seconds until the deadline of `head`, the earliest of the batch.
        most, free, load, crowd: as in `cheapest_batch`.
    """
    base, own = costs.models[line.model], costs.of(line.model, line.sizes[head]).latency
    margin = (1.0 + base.error) * base.slowdown(len(load.running))
    rooms: list[tuple[int, float]] = []
    for threads, room_s in rooms_of(slack_s, margin, free, load, crowd):
        if own.latency(1, threads) <= room_s:
            rooms.append((threads, room_s))
    if not rooms:
        return None  # where the head alone is too slow, it is so with others
    others = line.others(head) if most > 1 else []
    while True:
        best = _cheapest(costs, line, head, others, most, rooms, base.slowdown(len(load.running)))
        if best is None or len(best.members) == 1:
            return best
        hurt = _first_hurt(costs, line, best, load)
        if hurt is None:
            return best
        # Nobody passes the one that would be late.
        others = [index for index in others if index < hurt]


def _cheapest(
    costs: RowCosts,
    line: SizedLine,
    head: int,
    others: list[int],
    most: int,
    rooms: list[tuple[int, float]],
    slowdown: float,
) -> MatchedBatch | None:
    """As `cheapest_match`, with the threads that may start now and the room that each leaves."""
    best: MatchedBatch | None = None
    best_cost = math.inf
    for latency, members, least in _candidates(costs, line, head, others, most):
        worth = 0.0
        worths: list[float] = []
        for index in members:
            worth += costs.of(line.model, line.sizes[index]).alone_s
            worths.append(worth)
        if best is not None and _bound(latency, worths, least) > best_cost + TIE:
            continue
        for threads, room_s in rooms:
            batch = latency.largest_batch(room_s, threads, len(members))
            before = math.inf
            while batch >= least:
                work_s = latency.latency(batch, threads)
                cost = threads * work_s / worths[batch - 1]
                if cost > before + TIE:
                    break  # each further member is larger than the next, so fewer of them only cost more from here
                before = cost
                same = cost < best_cost + TIE and best is not None and batch > len(best.members)
                if cost < best_cost - TIE or same:
                    best, best_cost = MatchedBatch(members[:batch], threads, work_s * slowdown), cost
                batch -= 1
    return best


def rooms_of(slack_s: float, margin: float, free: int, load: CpuLoad, crowd: int) -> list[tuple[int, float]]:
    """By thread count that may start now: the seconds at full speed that a batch on it may take."""
    rooms: list[tuple[int, float]] = []
    for threads in range(1, free + 1):
        speed, stall = 1.0, 0.0
        if (together := max(load.threads + threads, crowd)) > load.cores:
            speed = load.cores / together
            stall = CFS_PERIOD_S * (1.0 - speed)
        if speed == 1.0 or load.tolerates(threads):
            rooms.append((threads, (slack_s - stall) * speed / margin))
    return rooms


def _bound(latency: LatencyModel, worths: list[float], least: int) -> float:
    """A lower bound of the cost of these members: all but the head count as if they were as large as the largest."""
    alone_s = latency.latency(1, 1)
    lowest = math.inf
    for batch in (max(least, min(2, len(worths))), len(worths)):  # the cost is monotone in between
        worth = max(worths[batch - 1], worths[0] + (batch - 1) * alone_s)
        lowest = min(lowest, latency.latency(batch, 1) / worth)
    # More threads only cost more, unless measurements say otherwise.
    factors = latency.by_threads
    return lowest * min(1.0, min(factors) / factors[0]) if factors else lowest


def _candidates(
    costs: RowCosts, line: SizedLine, head: int, others: list[int], most: int
) -> list[tuple[LatencyModel, list[int], int]]:
    """Batches to compare: a model, members, and the least number of them; any first part of the members will do."""
    base = costs.models[line.model]
    sizes, curve = line.sizes, base.sizes
    if curve is not None and curve.join == "alike":
        others = [index for index in others if sizes[index] == sizes[head]]
    if curve is not None and curve.join == "ragged":
        # Each row costs its own, so there is no reason to pass anyone.
        queue = [head, *others[: most - 1]]
        return [
            (base.of_batch([sizes[index] for index in queue[:batch]]), queue[:batch], batch)
            for batch in range(1, len(queue) + 1)
        ]
    nearest = sorted(others, key=lambda index: (-sizes[index], index))
    found: list[tuple[LatencyModel, list[int], int]] = []
    for largest in sorted({sizes[head], *(sizes[index] for index in others if sizes[index] > sizes[head])}):
        members = [head]
        for index in nearest:
            if sizes[index] <= largest and len(members) < most:
                members.append(index)
        found.append((costs.of(line.model, largest).latency, members, 1))
    return found


def _first_hurt(costs: RowCosts, line: SizedLine, batch: MatchedBatch, load: CpuLoad) -> int | None:
    """The first request that is late because `batch` passes it; None if nobody is.

    Those that are passed are assumed to follow the batch one by one on its threads. They would follow the head alone
    sooner, and only who is in time then can be hurt.
    """
    head = batch.members[0]
    alone_s = costs.of(line.model, line.sizes[head]).latency.latency(1, batch.threads)
    ends_s, sooner_s = batch.work_s, alone_s
    members = set(batch.members)
    last = max(batch.members)
    for index in range(head + 1, last):
        if index in members or index in line.gone:
            continue
        row_s = costs.of(line.model, line.sizes[index]).latency.latency(1, batch.threads)
        ends_s += row_s
        sooner_s += row_s
        left_s = line.deadlines[index] - load.now
        if sooner_s <= left_s < ends_s:
            return index
    return None
