"""Learns how far a client's clock is behind, from the send times that it claims.

The age of a request on arrival, by the two clocks, is the difference of the clocks plus the time on the way. The latter
is never negative and at times short, so the least age over some minutes is nearly all difference, if it is too long for
a way. A pure function of the samples; a clock that is ahead needs no learning, because such a request counts from its
arrival.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["ClientClock", "Reading"]

WINDOW_S = 300.0
"""How long a sample counts, at least; at most twice as long. A clock stays off for hours, a bad link does not."""

ENOUGH = 8
"""Samples before a short age is taken for a difference of the clocks: a few requests may all have been slow."""

SHARE = 0.5
"""A client whose every request seems to have spent this share of its time limit on the way has a clock that is off."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the samples of a client's clock said at one moment.

    Attributes:
        least_s: the least age of the last minutes; infinite without a sample.
        enough: there were enough samples to tell a difference of the clocks from a few slow ways.
    """

    least_s: float = math.inf
    enough: bool = False

    def behind_s(self, limit_s: float, believed_s: float) -> float:
        """Seconds that the clock is behind; 0 for one that may be right.

        Args:
            limit_s: time limit of the request.
            believed_s: no request is on its way for longer.
        """
        least = self.least_s
        if not 0.0 < least < math.inf:
            return 0.0
        learnt = least > believed_s or (self.enough and least > SHARE * limit_s)
        return least if learnt else 0.0


class ClientClock:
    """The least age of a client's requests in the last minutes."""

    __slots__ = ("_before", "_count", "_least", "_since")

    def __init__(self) -> None:
        self._before = math.inf  # least age of the window before
        self._least = math.inf  # of this window
        self._since = -math.inf  # start of this window
        self._count = 0  # samples in both

    def observe(self, now: float, age_s: float) -> Reading:
        """The reading with one more sample: a request that arrived at `now` seconds and claims to be `age_s` old."""
        if now - self._since >= WINDOW_S:
            recent = now - self._since < 2 * WINDOW_S
            self._before = self._least if recent else math.inf
            self._count = min(self._count, ENOUGH) if recent else 0
            self._since, self._least = now, math.inf
        self._least = min(self._least, age_s)
        self._count += 1
        return Reading(min(self._least, self._before), self._count >= ENOUGH)
