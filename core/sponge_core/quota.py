"""A client's quota: a token bucket. Time is an argument."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Quota", "TokenBucket"]


@dataclass(frozen=True, slots=True)
class Quota:
    """What one client may use: `rate` rows per second, > 0, and `burst` >= 1 rows at once after a pause."""

    rate: float
    burst: float


class TokenBucket:
    """The rows that a client may still send, by its `quota`. A new one is full."""

    __slots__ = ("_at", "_rows", "quota")

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self._rows = quota.burst
        self._at: float | None = None

    def wait_s(self, now: float) -> float:
        """Seconds until the client may send again; 0 when it may now. Takes nothing."""
        quota = self.quota
        if self._at is not None and now > self._at:
            self._rows = min(quota.burst, self._rows + (now - self._at) * quota.rate)
        self._at = now
        return max(0.0, (1.0 - self._rows) / quota.rate)

    def take(self, rows: int) -> None:
        """Takes what a request turned out to need; more than is left is a debt that the next requests wait for."""
        self._rows -= rows
