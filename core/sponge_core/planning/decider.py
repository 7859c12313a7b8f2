"""From a frontier to a size: grow at once, shrink only to the largest size that was needed during a short look-back.

This half of the planner runs in the control loop; the projection runs in the server.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sponge_core.control_api import FrontierPoint

__all__ = ["Recommendation", "SizeDecider"]

PEAK_S: Final = 0.3
"""A need that shows in one look only, between two others at most this far apart, is a peak."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The size and batch cap that a server should have now, why, and which planner says so."""

    cores_milli: int
    batch_cap: int
    feasible: bool  # no miss is expected at this size
    reason: str  # grow, shrink, hold or overload; the operator adds ceiling, no-frontier, parked, shared and waits
    planner: Literal["projected", "paper"] = "projected"


class SizeDecider:
    """Grows at once; shrinks only to the largest size that was needed during the look-back, except for peaks.

    Each resize costs an API write and two kubelet events, so a shrink waits until the larger size has not been needed
    for `look_back_s`. A peak is a few requests that happened to arrive together. It causes a grow, but does not keep
    the size up, because it is usually over long before the look-back ends.
    """

    def __init__(self, look_back_s: float = 1.0) -> None:
        self._look_back_s = look_back_s
        self._needs: deque[tuple[float, int]] = deque()

    def decide(self, now: float, current_milli: int, points: Sequence[FrontierPoint]) -> Recommendation:
        """The size for now.

        Args:
            now: seconds on the caller's clock.
            current_milli: the size in force.
            points: the frontier, ascending in cores, not empty.
        """
        fewest = min(point.misses for point in points)
        needed = next(point for point in points if point.misses == fewest)
        if not self._needs:
            # At the start the present size counts as needed until the look-back has passed.
            self._needs.append((now, current_milli))
        self._needs.append((now, needed.cores_milli))
        self._flatten_peak()
        while self._needs[0][0] < now - self._look_back_s:
            self._needs.popleft()
        feasible = fewest == 0
        if needed.cores_milli >= current_milli:
            grows = needed.cores_milli > current_milli
            reason = ("grow" if grows else "hold") if feasible else "overload"
            return Recommendation(needed.cores_milli, needed.batch_cap, feasible, reason)
        target = min(current_milli, max(milli for _, milli in self._needs))
        reason = "shrink" if target < current_milli else "hold"
        return Recommendation(target, needed.batch_cap, feasible, reason)

    def due_in(self, now: float) -> float | None:
        """Seconds until `decide` would shrink further if the need stays as it is; None if it would not."""
        if not self._needs:
            return None
        most = max(milli for _, milli in self._needs)
        if most <= self._needs[-1][1]:
            return None
        last_at = max(at for at, milli in self._needs if milli == most)
        return max(0.0, last_at + self._look_back_s - now)

    def _flatten_peak(self) -> None:
        """Replaces a peak by the larger of its neighbours, once the look after it is known."""
        if len(self._needs) < 3:
            return
        (before_at, before), (at, need), (now, last) = self._needs[-3], self._needs[-2], self._needs[-1]
        if now - before_at <= PEAK_S:
            self._needs[-2] = at, min(need, max(before, last))
