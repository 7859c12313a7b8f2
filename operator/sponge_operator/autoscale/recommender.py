"""From a server's frontier to the size that it should have, inside its range and below its node's ceiling.

The rule itself is the core's `SizeDecider`; this module bounds it. Pure, apart from the recent needs of each server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from sponge_core.control_api import FrontierPoint, SizeRange
from sponge_core.planning.decider import Recommendation, SizeDecider
from sponge_operator.autoscale.pace import Pace

__all__ = ["Recommender", "SizingSpec", "parked", "sizes_within"]


@dataclass(frozen=True, slots=True)
class SizingSpec:
    """How a server may be sized.

    Attributes:
        sizes: the sizes that it may have while it has work.
        idle_milli: its size when it has had no request for `idle_after_s`; None: it is never parked.
        look_back_s: a shrink waits until a size has not been needed for this long.
        weight: the cost of one missed request, relative to other servers on the node.
        fallback_after_s: a server that has heard nothing of the operator for this long follows its quota.
        acts: resize the server; False only recommends.
        policy: the planner that decides.
        measures: the server measures its own profile, for which it may be resized before it is ready.
        slo_s, max_batch: what the paper's planner plans with; without an SLO it is not asked.
        pace: how fast it may be resized.
        boost_milli: its size until it is ready, above `sizes`, as far as the node has room; None: no more than `sizes`.
    """

    sizes: SizeRange
    idle_milli: int | None = None
    idle_after_s: float = 60.0
    look_back_s: float = 1.0
    weight: float = 1.0
    fallback_after_s: float = 60.0
    acts: bool = True
    policy: Literal["projected", "paper"] = "projected"
    measures: bool = False
    slo_s: float | None = None
    max_batch: int = 1
    pace: Pace = field(default_factory=Pace)
    boost_milli: int | None = None


def parked(spec: SizingSpec, idle_for_s: float, batch_cap: int) -> Recommendation | None:
    """The size of a server that has been idle for long enough; None while it has work or if it is never parked."""
    if spec.idle_milli is None or idle_for_s < spec.idle_after_s:
        return None
    return Recommendation(spec.idle_milli, batch_cap, feasible=True, reason="parked")


def sizes_within(sizes: SizeRange, floor_milli: int | None, ceiling_milli: int | None) -> SizeRange:
    """The sizes from the floor up to the ceiling; None for no bound. At least one size always remains."""
    least, most = sizes.min_milli, sizes.max_milli
    if ceiling_milli is not None:
        most = sizes.at_most(ceiling_milli)
    if floor_milli is not None and floor_milli > least:
        steps = -(-(floor_milli - least) // sizes.step_milli)
        least = min(most, least + steps * sizes.step_milli)
    return sizes.model_copy(update={"min_milli": least, "max_milli": most})


class Recommender:
    """Recommends sizes for one server; keeps its recent needs."""

    def __init__(self, look_back_s: float) -> None:
        self.look_back_s = look_back_s
        self._decider = SizeDecider(look_back_s)

    def due_in(self, now: float) -> float | None:
        """Seconds until a shrink is due, if the needs stay as they are; None if none is coming."""
        return self._decider.due_in(now)

    def recommend(
        self,
        now: float,
        current_milli: int,
        batch_cap: int,
        frontier: Sequence[FrontierPoint],
        sizes: SizeRange,
    ) -> Recommendation:
        """The size for now.

        Args:
            current_milli: the size in force.
            batch_cap: the cap in force; kept where the server projects nothing.
            frontier: as the server sent it; empty until it knows its profile.
            sizes: the sizes that the server may have.
        """
        bounded = _within(sizes, current_milli)
        if not frontier:
            # Without a projection every size is a guess: keep the present one.
            return Recommendation(bounded, batch_cap, feasible=False, reason="no-frontier")
        fewest = min(point.misses for point in frontier)
        needed = next(point for point in frontier if point.misses == fewest)
        points = [point for point in frontier if sizes.min_milli <= point.cores_milli <= sizes.max_milli]
        short = False
        if not any(point.misses == fewest for point in points):
            # Every size with the fewest misses is out of range: take the nearest allowed one.
            short = needed.cores_milli > sizes.max_milli
            points = [needed.model_copy(update={"cores_milli": _within(sizes, needed.cores_milli)})]
        decided = self._decider.decide(now, bounded, points)
        return Recommendation(
            _within(sizes, decided.cores_milli),
            decided.batch_cap,
            feasible=decided.feasible and not short,
            reason="ceiling" if short else decided.reason,
        )


def _within(sizes: SizeRange, milli: int) -> int:
    return max(sizes.min_milli, min(sizes.max_milli, milli))
