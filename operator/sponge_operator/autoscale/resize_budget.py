"""The rate of resizes over all pods: each one costs writes to the API server."""

from __future__ import annotations

__all__ = ["ResizeBudget"]

SHRINKS_SHARE = 0.1
"""Of the rate; kept for shrinks, so that a stream of grows does not hold them back for ever."""


class ResizeBudget:
    """A token bucket, in which grows have priority.

    A shrink may use only the upper half of the burst, so that a wave of shrinks never delays a grow, or its own small
    share of the rate.

    Args:
        per_s: resizes a second in the long run; bursts are up to twice as many.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._burst = max(2.0, 2 * per_s) if per_s else 0.0
        self._tokens = self._burst
        self._for_shrinks = 0.0
        self._at: float | None = None

    def take(self, now: float, *, grows: bool) -> bool:
        """Whether a resize may be sent now; uses up a token if so."""
        earned = 0.0 if self._at is None else max(0.0, now - self._at) * self._per_s
        self._at = now
        kept = min(earned * SHRINKS_SHARE, 1.0 - self._for_shrinks)
        self._for_shrinks += kept
        self._tokens = min(self._burst, self._tokens + earned - kept)
        floor = 0.0 if grows else self._burst / 2
        if self._tokens - 1 >= floor:
            self._tokens -= 1
            return True
        if not grows and self._for_shrinks >= 1.0 - 1e-9:
            self._for_shrinks = 0.0
            return True
        return False
