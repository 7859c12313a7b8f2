"""How many pods a service should have: another one only for a lasting need, one less only late.

A pod is resized within tens of milliseconds, and a further pod takes a cold start. So the size of the pods comes first,
and their number follows the steady need: what a core can serve, because the present queue is empty before a new pod
serves. While the need exceeds the largest sizes, the work left undone adds up (and decreases again otherwise). A pod is
requested once that sum equals the cost of a start, which is a cold start on the smallest size. So a short surge starts
no pod, and a larger excess starts one sooner. This is the break-even rule of the ski rental problem, which pays at most
twice the cost of knowing the end of the surge. Work that misses its deadlines counts several times, because it costs
more than its CPU. A load that rises steadily is known to need the pod, so it is requested a cold start before the
largest sizes are full. A pod is removed when the others would have room to spare for twice the time of a cold start.

The largest size of a pod is what its node can give: a pod on a full node counts with less, and one that is lost with
nothing. Pods that have been requested and do not serve yet count in full, wherever they are, so that a pod which no
node takes is requested once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

__all__ = ["ReplicaDecider", "ReplicaDecision", "ReplicaLimits", "ReplicaState", "Trend"]

FULL: Final = 0.9
"""The largest sizes count as full from this fraction of them on."""

TO_SPARE: Final = 0.7
"""A pod may be removed if the need is below this fraction of the others' largest sizes. It is clearly below `FULL`, so
that the pod does not come back."""

FULL_EARLY: Final = 0.3
"""Where requests are missed at the largest sizes long before the load fills them, for example because they come in
bursts, that load counts as full, but not less than this fraction."""

REMEMBERED_S: Final = 1800.0
"""For so long."""

RISING_S: Final = 2.0
"""A load must be forecast to fill the largest sizes for so long before a pod is requested ahead."""

MISSED_PRICE: Final = 10.0
"""A core-second of work that misses its deadlines costs as much as so many of a pod. From about this price on, a surge
beyond a pod is answered a second after it is seen; a load that comes in bursts which the queue absorbs misses nothing,
and starts none."""

SETTLING_S: Final = 6.0
"""Misses so soon after pods have begun to serve do not count: they are of the time before, because servers tell the
refusals of their last five seconds."""

SPARED_AFTER_S: Final = 20.0
"""A pod goes no sooner than after so long with room to spare, however short a cold start is: bursts come again."""

SAMPLE_S: Final = 1.0
"""Between two loads that a trend is fitted to."""

SURE: Final = 1.0
"""Standard errors by which the slope of a trend must exceed zero; it counts less them."""

FEWEST_SEEN: Final = 5
"""Loads that a trend is fitted to, at least."""

ReplicaReason = Literal["hold", "range", "load", "ahead", "missed", "ceiling", "at-max", "spare", "idle"]
"""Why so many: nothing to change; the present number is out of range; the load fills the largest sizes, or will before
a pod would serve; requests are missed at the largest sizes; pods cannot have those; the load needs more than the most
pods; one pod can be spared; there has been no request for long."""


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """What the number of pods is bounded by, and what a pod costs.

    Attributes:
        least, most: the range of their number.
        min_cores, max_cores: the smallest and largest size of one.
        cold_start_s: seconds from the request for a pod until it serves.
        remove_after_s: after so many seconds without a request all pods go, if `least` is 0; None: they stay.
    """

    least: int
    most: int
    min_cores: float
    max_cores: float
    cold_start_s: float
    remove_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """The pods of a service and their load, in cores at the most efficient size and batch.

    Attributes:
        asked: the pods requested, including those that do not serve yet.
        load_cores: what the arrivals of the last second take.
        steady_cores: what the recent mean rate takes.
        ahead_cores: what the load will take when a pod that is requested within `RISING_S` would serve, if it goes on
            rising as it does for sure; 0 if nothing is known of that.
        missed_cores: the part of the load that is expected to miss its deadlines although pods have their largest
            sizes.
        short_cores: for each pod that serves, or did, how much its node lacks of `max_cores`; all of it for a lost pod.
        starting: pods that have been requested and have not served yet.
        idle_s: seconds since the last request.
    """

    asked: int
    load_cores: float
    steady_cores: float
    ahead_cores: float = 0.0
    missed_cores: float = 0.0
    short_cores: Sequence[float] = ()
    starting: int = 0
    idle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplicaDecision:
    """The number of pods to have now, and why."""

    replicas: int
    reason: ReplicaReason


class ReplicaDecider:
    """The rule for one service; keeps the work left undone, and since when a pod could be spared."""

    def __init__(self) -> None:
        self._undone_core_s = 0.0
        self._too_many_since: float | None = None
        self._full = FULL
        self._full_until = math.inf
        self._is_limited = False
        self._rising_since: float | None = None
        self._settled_at = -math.inf

    def decide(self, now: float, elapsed_s: float, state: ReplicaState, limits: ReplicaLimits) -> ReplicaDecision:
        """The number of pods for now.

        Args:
            now: seconds on the caller's clock.
            elapsed_s: seconds since the last decision, for which the load was as it is now.
        """
        if not limits.least <= state.asked <= limits.most:
            self._undone_core_s, self._too_many_since = 0.0, None
            return ReplicaDecision(min(limits.most, max(limits.least, state.asked)), "range")
        if _is_unused(state, limits):
            return ReplicaDecision(0, "idle")
        if now >= self._full_until:
            self._full, self._full_until = FULL, math.inf
        short = sum(state.short_cores)
        has_cores = state.asked * limits.max_cores - short
        full_cores = self._full * has_cores
        excess = state.load_cores - full_cores
        if state.starting:  # the misses end when these pods serve
            self._settled_at = now + SETTLING_S
        elif state.missed_cores > 0 and now >= self._settled_at:
            excess = max(excess, MISSED_PRICE * state.missed_cores)
        self._undone_core_s = max(0.0, self._undone_core_s + excess * elapsed_s)
        is_rising = self._is_rising(now, state.ahead_cores > full_cores)
        self._is_limited = self._is_limited and (excess > 0 or is_rising)
        if is_rising or self._undone_core_s > limits.cold_start_s * limits.min_cores:
            self._undone_core_s, self._too_many_since, self._rising_since = 0.0, None, None
            return self._one_more(now, state, limits, has_cores, short)
        if self._is_limited:
            return ReplicaDecision(state.asked, "at-max")
        if not self._can_spare_one(state, limits, short):
            self._too_many_since = None
            return ReplicaDecision(state.asked, "hold")
        self._too_many_since = now if self._too_many_since is None else self._too_many_since
        if now - self._too_many_since < max(SPARED_AFTER_S, 2 * limits.cold_start_s):
            return ReplicaDecision(state.asked, "hold")
        self._too_many_since = None
        return ReplicaDecision(state.asked - 1, "spare")

    def _is_rising(self, now: float, will_be_full: bool) -> bool:
        if not will_be_full:
            self._rising_since = None
            return False
        self._rising_since = now if self._rising_since is None else self._rising_since
        return now - self._rising_since >= RISING_S

    def _one_more(
        self, now: float, state: ReplicaState, limits: ReplicaLimits, has_cores: float, short: float
    ) -> ReplicaDecision:
        if state.asked >= limits.most:
            self._is_limited = True
            return ReplicaDecision(state.asked, "at-max")
        reason = self._why(state, limits, has_cores)
        if reason == "missed":
            self._full = max(FULL_EARLY, min(self._full, state.load_cores / has_cores)) if has_cores else self._full
            self._full_until = now + REMEMBERED_S
        full, steady = self._full, max(state.steady_cores, state.ahead_cores)
        wanted = math.ceil((steady + full * short) / (full * limits.max_cores))
        return ReplicaDecision(min(limits.most, max(wanted, state.asked + 1)), reason)

    def _why(self, state: ReplicaState, limits: ReplicaLimits, has_cores: float) -> ReplicaReason:
        if state.load_cores > self._full * has_cores:
            is_enough_without = state.load_cores <= self._full * state.asked * limits.max_cores
            return "ceiling" if is_enough_without else "load"
        return "missed" if state.missed_cores > 0 else "ahead"

    def _can_spare_one(self, state: ReplicaState, limits: ReplicaLimits, short: float) -> bool:
        if state.asked <= max(1, limits.least) or state.missed_cores > 0:
            return False
        # Pods that do not serve go first, then the one whose node lacks most.
        left_short = short if state.starting else short - max(state.short_cores, default=0.0)
        left_cores = (state.asked - 1) * limits.max_cores - left_short
        to_spare = TO_SPARE * (self._full / FULL)
        return max(state.steady_cores, state.ahead_cores) <= to_spare * left_cores


def _is_unused(state: ReplicaState, limits: ReplicaLimits) -> bool:
    keep_s = limits.remove_after_s
    return limits.least == 0 < state.asked and keep_s is not None and state.idle_s >= keep_s


class Trend:
    """Follows a load along a straight line through its last `window_s` seconds.

    Only a rise that is clearly more than chance counts, and only as much of it as is sure. It must show in the last
    third of the window too, and explain the loads better than a step does; what a step leaves undone starts pods.
    """

    def __init__(self, window_s: float = 30.0) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, float]] = deque()

    def observe(self, now: float, value: float) -> None:
        """Records the load at `now`; loads closer together than `SAMPLE_S` count once."""
        if self._seen and now - self._seen[-1][0] < 0.9 * SAMPLE_S:
            return
        self._seen.append((now, value))
        while self._seen[0][0] < now - self._window_s:
            self._seen.popleft()

    def ahead(self, now: float, load_cores: float, cold_start_s: float) -> float:
        """The `ahead_cores` of a `ReplicaState`; records the load too."""
        self.observe(now, load_cores)
        rise = self.rise_in(cold_start_s + RISING_S)
        return load_cores + rise if rise else 0.0

    def rise_in(self, ahead_s: float) -> float:
        """By how much the load rises in `ahead_s` seconds if it goes on as it does; 0 if it does not rise for sure."""
        if len(self._seen) < FEWEST_SEEN:
            return 0.0
        whole = _Line.through(self._seen)
        if _is_step(self._seen, whole):
            return 0.0
        since = self._seen[-1][0] - self._window_s / 3
        late = [(at, value) for at, value in self._seen if at >= since]
        if len(late) < FEWEST_SEEN:
            return 0.0
        return max(0.0, min(whole.sure_slope, _Line.through(late).sure_slope)) * ahead_s


class _Line(NamedTuple):
    """The straight line that is nearest to some values.

    Attributes:
        slope: per second.
        error: its standard error.
        beside: the sum of the squares of what the values differ from the line.
    """

    slope: float
    error: float
    beside: float

    @property
    def sure_slope(self) -> float:
        return self.slope - SURE * self.error

    @classmethod
    def through(cls, seen: Sequence[tuple[float, float]]) -> _Line:
        """Of values at three times or more."""
        count = len(seen)
        mean_at = sum([at for at, _ in seen]) / count
        mean = sum([value for _, value in seen]) / count
        spread = sum([(at - mean_at) ** 2 for at, _ in seen])
        slope = sum([(at - mean_at) * (value - mean) for at, value in seen]) / spread
        beside = sum([(value - mean - slope * (at - mean_at)) ** 2 for at, value in seen])
        return cls(slope, math.sqrt(beside / (count - 2) / spread), beside)


def _is_step(seen: Sequence[tuple[float, float]], line: _Line) -> bool:
    """Whether two levels, one after the other, are nearer to the values than the line is."""
    total, count, before, least = sum([value for _, value in seen]), len(seen), 0.0, math.inf
    squares = sum([value * value for _, value in seen])
    for number, (_, value) in enumerate(list(seen)[:-1], start=1):
        before += value
        after = total - before
        least = min(least, squares - before * before / number - after * after / (count - number))
    return least < line.beside
