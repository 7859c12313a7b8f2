"""Searches for the smallest CPU size without a projected miss, and reports the misses of every size it tried."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sponge_core.control_api import FrontierPoint
from sponge_core.dispatch.decision import Limits
from sponge_core.latency import LatencyModel
from sponge_core.planning.projection import Projection, ProjectionInput, Replayer

__all__ = ["Frontier", "project_frontier"]

FAR: Final = 3
"""The search starts at the size that the estimated work suggests when that is more than this many sizes away from the
one in force, else at the one in force."""

FAR_SHORT: Final = 16
"""A size with more misses than this has no neighbour without a miss."""


@dataclass(frozen=True, slots=True)
class Frontier:
    """The result of a search.

    Attributes:
        points: the sizes that were tried, ascending in cores.
        urgent: the size in force is about to miss requests that a larger one would save.
    """

    points: tuple[FrontierPoint, ...]
    urgent: bool


def project_frontier(
    given: ProjectionInput,
    candidates_milli: Sequence[int],
    models: Sequence[LatencyModel],
    limits: Limits,
    *,
    counted: bool = True,
) -> Frontier:
    """Finds the smallest candidate without a miss.

    Args:
        candidates_milli: the allowed sizes in millicores, ascending, not empty.
        models: the latency models, by `Request.model`.
        limits: `max_cores` is the largest size that a plan may choose.
        counted: count all misses of every size tried. Without it, when some size misses nothing, the counts of the
            other sizes only say that they miss something.

    Returns:
        Every size that was tried. They include the smallest size without a miss, or, when there is none, the largest
        size and the one in force. If even the largest misses, its batch cap is the one with the fewest misses.
    """
    replayer = Replayer(given, models, limits.max_cores)
    enough = sys.maxsize if counted else 1
    tried: dict[int, Projection] = {}

    def misses(index: int) -> int:
        if index not in tried:
            tried[index] = replayer.run(candidates_milli[index] / 1000, limits, enough=enough)
        return tried[index].misses

    in_force = round(given.cores * 1000)
    last = len(candidates_milli) - 1
    here = min(range(last + 1), key=lambda i: abs(candidates_milli[i] - in_force))
    bad = replayer.first_candidate(candidates_milli, limits.batch_cap) - 1
    good = last + 1
    likely = bisect_left(candidates_milli, 1000 * replayer.mean_cores(limits.batch_cap))
    probe = min(last, max(bad + 1, here if abs(here - likely) <= FAR else likely))
    stride = 1
    if bad < last and misses(probe) == 0:
        # Step down by doubling strides while nothing is missed, then bisect the last gap.
        good = probe
        while good > bad + 1:
            probe = max(bad + 1, good - stride)
            if misses(probe) == 0:
                good, stride = probe, stride * 2
            else:
                bad = probe
                break
    elif bad < last:
        bad = probe
        while bad < last:
            # After far too many misses, first find out whether any size is enough.
            probe = last if misses(bad) > FAR_SHORT else min(last, bad + stride)
            if misses(probe) == 0:
                good = probe
                break
            bad, stride = probe, stride * 2
    while good - bad > 1 and good <= last:
        middle = (good + bad) // 2
        if misses(middle) == 0:
            good = middle
        else:
            bad = middle
    if good > here:
        misses(here)
    cap = limits.batch_cap
    if good > last:
        misses(last)
        # Overload: now the number of misses matters, and the rule's sacrifices can lower it.
        for index in tried:
            cores = candidates_milli[index] / 1000
            without = tried[index] if counted else replayer.run(cores, limits)
            tried[index] = _with_sacrifice(replayer, cores, limits, without)
        cap, tried[last] = _best_cap(replayer, candidates_milli[last] / 1000, limits, tried[last])
    points = tuple(
        FrontierPoint(
            cores_milli=candidates_milli[index],
            batch_cap=cap if index == last else limits.batch_cap,
            misses=tried[index].misses,
        )
        for index in sorted(tried)
    )
    present = tried[here].misses if good > here else 0
    urgent = any(point.cores_milli > in_force and point.misses < present for point in points)
    return Frontier(points, urgent)


def _with_sacrifice(replayer: Replayer, cores: float, limits: Limits, without: Projection) -> Projection:
    """The projection of a size in overload with the rule's sacrifices, or `without` them if that misses no more."""
    if replayer.given.slos is None:
        return without
    found = replayer.run(cores, limits, sacrifice=True, enough=without.misses)
    return found if found.misses < without.misses else without


def _best_cap(replayer: Replayer, cores: float, limits: Limits, found: Projection) -> tuple[int, Projection]:
    """The batch cap with the fewest misses, the larger on ties: in overload, halving the cap may save requests."""
    best, cap = limits.batch_cap, limits.batch_cap // 2
    while cap >= 1 and found.misses:
        if cap < found.largest_batch:
            narrower = Limits(cap, limits.lanes, limits.max_cores)
            more = found.misses + 1
            other = _with_sacrifice(replayer, cores, narrower, replayer.run(cores, narrower, enough=more))
            if other.misses >= more:
                break  # the loss from smaller batches only grows from here
            if other.misses < found.misses:
                best, found = cap, other
        cap //= 2
    return best, found
