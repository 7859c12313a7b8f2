"""What becomes of a recommended size: it avoids sizes that were refused, and keeps to the bounds on the pace. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sponge_core.control_api import SizeRange
from sponge_core.planning.decider import Recommendation

__all__ = ["HELD", "Pace", "paced", "possible"]

HELD = ("grow-paused", "shrink-paused", "cooldown")
"""Reasons of a recommendation that is held back by the service's own settings."""

PART_MILLI = 50
"""Outside of the range, where only refusals lead, sizes are multiples of this, so that the search for one ends."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a server may be resized; the defaults bound nothing.

    Attributes:
        max_grow_milli: the most that one resize adds.
        max_grow_percent: likewise, of the size in force; one step is always allowed.
        grow_cooldown_s: the shortest time between two grows.
        shrink_cooldown_s: the shortest time from any resize to a shrink.
        paused: the direction in which nothing moves.
    """

    max_grow_milli: int | None = None
    max_grow_percent: int | None = None
    grow_cooldown_s: float = 0.0
    shrink_cooldown_s: float = 0.0
    paused: Literal["grow", "shrink"] | None = None


def possible(
    wanted: Recommendation, has_milli: int, sizes: SizeRange, floor_milli: int | None, ceiling_milli: int | None
) -> Recommendation:
    """The recommendation, moved to a size that is not refused: the nearest one above, else the largest one.

    Where every size of the range is refused, it is the nearest one outside of it: what a full node still has may be
    less than `cpu.min`, and yet much more than a parked pod has.

    Args:
        has_milli: the size in force, which is always possible.
        sizes: the sizes within floor and ceiling, as far as there are any.
        floor_milli: the smallest size that is not refused; None for no known bound.
        ceiling_milli: the largest one.
    """
    milli = wanted.cores_milli
    if ceiling_milli is not None and milli > ceiling_milli and milli != has_milli:
        best = has_milli
        if has_milli <= ceiling_milli:
            below = ceiling_milli // PART_MILLI * PART_MILLI
            best = max(has_milli, below) if sizes.min_milli > ceiling_milli else sizes.at_most(ceiling_milli)
        return replace(wanted, cores_milli=best, feasible=False, reason="ceiling")
    if floor_milli is not None and milli < floor_milli and milli != has_milli:
        above = -(-floor_milli // PART_MILLI) * PART_MILLI
        best = sizes.min_milli if sizes.min_milli >= floor_milli else min(has_milli, above)
        return replace(wanted, cores_milli=has_milli if milli < has_milli < best else best, reason="floor")
    return wanted


def paced(
    wanted: Recommendation,
    has_milli: int,
    sizes: SizeRange,
    pace: Pace,
    now: float,
    grown_at: float | None,
    shrunk_at: float | None,
) -> Recommendation:
    """The recommendation, as far as the pace allows it now.

    A grow up to the smallest size is always allowed, and so is a shrink to the largest one: a parked server wakes at
    once, and an edited range is in force at once.

    Args:
        has_milli: the size in force.
        sizes: the service's own range.
        grown_at: when a larger size came in force; None: never.
        shrunk_at: when a smaller size came in force.
    """
    milli = wanted.cores_milli
    if milli > has_milli:
        free = max(has_milli, min(milli, sizes.min_milli))
        if pace.paused == "grow":
            return _moved(wanted, free, "grow-paused")
        if grown_at is not None and now < grown_at + pace.grow_cooldown_s:
            return _moved(wanted, free, "cooldown")
        most = free + max(sizes.step_milli, _most_added(pace, free, milli))
        return _moved(wanted, max(free, sizes.at_most(most)) if milli > most else milli, "max-grow")
    if milli < has_milli:
        free = min(has_milli, max(milli, sizes.max_milli))
        resized_at = max((at for at in (grown_at, shrunk_at) if at is not None), default=None)
        if pace.paused == "shrink":
            return _moved(wanted, free, "shrink-paused")
        if resized_at is not None and now < resized_at + pace.shrink_cooldown_s:
            return _moved(wanted, free, "cooldown")
    return wanted


def _most_added(pace: Pace, has_milli: int, wanted_milli: int) -> int:
    most = wanted_milli
    if pace.max_grow_milli is not None:
        most = min(most, pace.max_grow_milli)
    if pace.max_grow_percent is not None:
        most = min(most, has_milli * pace.max_grow_percent // 100)
    return most


def _moved(wanted: Recommendation, milli: int, reason: str) -> Recommendation:
    if milli == wanted.cores_milli:
        return wanted
    return replace(wanted, cores_milli=milli, feasible=wanted.feasible and milli > wanted.cores_milli, reason=reason)
