"""Ways to find the batch of a head among requests of many sizes, to compare with `size_matching.cheapest_match`."""

from __future__ import annotations

import math
from collections.abc import Callable

from sponge_core.cpu_sharing import CpuLoad
from sponge_core.dispatch.size_matching import MatchedBatch, RowCosts, SizedLine, cheapest_match, rooms_of

__all__ = ["by_bucket", "by_slack", "one_by_one"]


def one_by_one(
    costs: RowCosts, line: SizedLine, head: int, slack_s: float, most: int, free: int, load: CpuLoad, crowd: int
) -> MatchedBatch | None:
    """Every request alone, on as many threads as it needs."""
    return cheapest_match(costs, line, head, slack_s, min(most, 1), free, load, crowd)


def by_bucket(
    costs: RowCosts, line: SizedLine, head: int, slack_s: float, most: int, free: int, load: CpuLoad, crowd: int
) -> MatchedBatch | None:
    """The next requests whose size has the same power of two, as TensorFlow's and others' length buckets do."""
    bucket = math.frexp(line.sizes[head])[1]
    return _greedy(
        costs, line, head, slack_s, most, free, load, crowd, lambda _, index: math.frexp(line.sizes[index])[1] == bucket
    )


def by_slack(
    costs: RowCosts, line: SizedLine, head: int, slack_s: float, most: int, free: int, load: CpuLoad, crowd: int
) -> MatchedBatch | None:
    """The next requests in order, each of them if the batch then costs less than without it and the request alone."""
    base = costs.models[line.model]

    def saves(members: list[int], index: int) -> bool:
        sizes = [line.sizes[each] for each in members]
        before = base.of_batch(sizes).latency(len(sizes), 1)
        after = base.of_batch([*sizes, line.sizes[index]]).latency(len(sizes) + 1, 1)
        return after < before + costs.of(line.model, line.sizes[index]).alone_s

    return _greedy(costs, line, head, slack_s, most, free, load, crowd, saves)


def _greedy(
    costs: RowCosts,
    line: SizedLine,
    head: int,
    slack_s: float,
    most: int,
    free: int,
    load: CpuLoad,
    crowd: int,
    joins: Callable[[list[int], int], bool],
) -> MatchedBatch | None:
    """The fewest threads on which the head is in time, and every next request that joins and keeps it in time."""
    base = costs.models[line.model]
    slowdown = base.slowdown(len(load.running))
    for threads, room_s in rooms_of(slack_s, (1.0 + base.error) * slowdown, free, load, crowd):
        members = [head]
        work_s = base.at(line.sizes[head]).latency(1, threads)
        if work_s > room_s:
            continue
        for index in line.others(head):
            if len(members) == most:
                break
            sizes = [*(line.sizes[each] for each in members), line.sizes[index]]
            longer_s = base.of_batch(sizes).latency(len(sizes), threads)
            if longer_s <= room_s and joins(members, index):
                members.append(index)
                work_s = longer_s
        return MatchedBatch(members, threads, work_s * slowdown)
    return None
