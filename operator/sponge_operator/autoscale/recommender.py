"""From a server's frontier to the size that its pod should have, inside the range and under the node's ceiling.

A thin layer over the core's SizeDecider, which holds the rule. Pure apart from the look-back that it keeps per pod;
knows nothing of Kubernetes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sponge_core.control_api import FrontierPoint, SizeRange
from sponge_core.planning.decider import SizeDecider
from sponge_operator.resources.model import CpuRange

__all__ = ["PodDecider", "ResizeBudget", "Wish", "parked", "sizes_under"]


@dataclass(frozen=True, slots=True)
class Wish:
    """The size and batch cap that a pod should have now, and why."""

    cores_milli: int
    batch_cap: int
    feasible: bool
    reason: str  # grow, shrink, hold, overload, ceiling, no-frontier or parked


def parked(cpu: CpuRange, idle_for_s: float, batch_cap: int) -> Wish | None:
    """The size of a pod that has had nothing to do for long enough; None while it has, or where none is parked."""
    if cpu.idle is None or idle_for_s < cpu.idle_after:
        return None
    return Wish(cpu.idle, batch_cap, feasible=True, reason="parked")


def sizes_under(cpu: CpuRange, ceiling_milli: int | None) -> SizeRange:
    """The range that may be planned for, when the node has no more than the ceiling; never less than `cpu.min`."""
    largest = cpu.max if ceiling_milli is None else cpu.on_grid(ceiling_milli)
    return SizeRange(min_milli=cpu.min, max_milli=largest, step_milli=cpu.step)


class PodDecider:
    """Decides for one pod; keeps its recent needs."""

    def __init__(self, look_back_s: float) -> None:
        self._decider = SizeDecider(look_back_s)

    def decide(
        self,
        now: float,
        current_milli: int,
        batch_cap: int,
        frontier: Sequence[FrontierPoint],
        sizes: SizeRange,
        ceiling_milli: int | None = None,
    ) -> Wish:
        """The wish for now.

        Args:
            current_milli: the size in force.
            batch_cap: the cap in force, kept where the server projects nothing.
            frontier: as the server sent it; empty until it knows its profile.
            sizes: what the pod may have.
            ceiling_milli: what the node is believed to have for it; only binds where that is less than `sizes` allow.
        """
        wish = self._choose(now, current_milli, batch_cap, frontier, sizes)
        if ceiling_milli is not None and wish.cores_milli > max(ceiling_milli, current_milli):
            # The node has not even the smallest size: what the pod has is the best there is.
            return replace(wish, cores_milli=current_milli, feasible=False, reason="ceiling")
        return wish

    def _choose(
        self, now: float, current_milli: int, batch_cap: int, frontier: Sequence[FrontierPoint], sizes: SizeRange
    ) -> Wish:
        bounded = _within(sizes, current_milli)
        if not frontier:
            # Without a projection every size is a guess: keep the present one.
            return Wish(bounded, batch_cap, feasible=False, reason="no-frontier")
        fewest = min(point.misses for point in frontier)
        needed = next(point for point in frontier if point.misses == fewest)
        points = [point for point in frontier if sizes.min_milli <= point.cores_milli <= sizes.max_milli]
        short = False
        if not any(point.misses == fewest for point in points):
            # Only sizes that the pod may not have are good enough: the nearest allowed one is the best there is.
            short = needed.cores_milli > sizes.max_milli
            points = [needed.model_copy(update={"cores_milli": _within(sizes, needed.cores_milli)})]
        plan = self._decider.decide(now, bounded, points)
        return Wish(
            _within(sizes, plan.cores_milli),
            plan.batch_cap,
            feasible=plan.feasible and not short,
            reason="ceiling" if short else plan.reason,
        )


def _within(sizes: SizeRange, milli: int) -> int:
    return max(sizes.min_milli, min(sizes.max_milli, milli))


class ResizeBudget:
    """A token bucket over all pods: each resize costs writes to the API server, and growing goes first.

    A shrink may use only the upper half of the burst, so that a wave of shrinks never makes a grow wait.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._burst = 2 * per_s
        self._tokens = self._burst
        self._at = 0.0

    def take(self, now: float, *, grows: bool) -> bool:
        """Whether a resize may be sent now; uses up a token if so."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._per_s)
        self._at = now
        floor = 0.0 if grows else self._burst / 2
        if self._tokens - 1 < floor:
            return False
        self._tokens -= 1
        return True
