"""The state machine of one CPU quota: what to do about its state (`step`), and what to remember (`History`).

Pure: the state comes in as `quota_state` has read it, the clock is an argument, and the action goes out as a value. The
control loop calls it for pods and local cgroups alike.

The rules come from observations on Kubernetes 1.36:
- A stuck resize is sent again with a different size, because the same size would be no change, and then as it was.
- A kubelet that was restarted has seen the new size and yet applies it only half a minute later, unless it is sent
  again. So the wait for that begins anew once the kubelet has seen it, however long it was away.
- No second resize is sent before the first one is observed.
- A resize less than a second after another one may wait for the rest of that second, because the kubelet's worker still
  has an update of the pod from the first, and looks at the pod once a second. Any further request makes it go on, so
  another one is sent when a resize is overdue.
- A Deferred resize reserves its CPU on the node and blocks later resizes, so it is always taken back.
- A size that was refused is not asked for again for a while; `ceiling` says what else the pod may have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sponge_core.control_api import ApplyRequest
from sponge_operator.autoscale.ceiling import Bound, Refusal, Wait, may_have
from sponge_operator.autoscale.quota_state import (
    Deferred,
    Failed,
    Idle,
    Infeasible,
    InFlight,
    NotResizable,
    Observed,
)

__all__ = [
    "Action",
    "Blocked",
    "Held",
    "History",
    "Nothing",
    "Patch",
    "Revert",
    "actuated",
    "record",
    "refuse",
    "step",
    "unless_unwanted",
]

STUCK_S = 2.0
"""A resize that is not complete by then is sent again; it takes 26 ms (p50) to 400 ms on 1.36, 1 to 2 s on 1.35."""

OVERDUE = 2.0
"""A resize that takes more than this many times as long as usual is overdue. The kubelet is reminded of it, or
asked for what is wanted by then."""

SOONEST_S = 0.1
"""No resize is overdue before."""

USUAL_STEP = 1.25
"""The usual time changes by this factor with each resize, towards what that one took, and so stays near the median."""

MAX_STUCK_S = 60.0
"""The wait before a resend doubles with each one, up to this."""

FORGET_S = 60.0
"""A refusal that comes again within this time after the last one ceased to hold is the same one, and holds longer."""

SHOWN_S = 5.0
"""How long a refusal is shown after the server last wanted another size; loads come and go many times a second."""


# --- the action ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Nothing:
    """Nothing to send now."""

    reason: Literal["Settled", "InFlight", "NotResizable", "Refused"]


@dataclass(frozen=True, slots=True)
class Patch:
    """Request this size.

    Attributes:
        resends: how often a request that seems to be stuck has been repeated, with this one.
        overlooked: the kubelet has overlooked the one before.
        reminds: the spec says so already; the kubelet ignores that, so ask for one millicore less first.
    """

    milli: int
    resends: int = 0
    overlooked: bool = False
    reminds: bool = False


@dataclass(frozen=True, slots=True)
class Revert:
    """Take a resize back to the size in force; `why` is what the container may have instead."""

    milli: int
    outcome: Literal["deferred", "infeasible", "error"]
    why: Bound | Wait


Action = Nothing | Patch | Revert


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a server does not get the size that it should have; `reason` is machine-readable."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Held:
    """A bound on the sizes; after `until` the sizes beyond it are tried again.

    Attributes:
        again: how often it was met before.
        granted_milli: the size nearest to the bound that came in force meanwhile.
    """

    bound: Bound
    until: float
    again: int = 0
    granted_milli: int | None = None

    def limit(self, has_milli: int, step_milli: int) -> int:
        """The last size that may be asked for; see `Bound.limit`."""
        if self.granted_milli is not None:
            has_milli = (max if self.bound.below else min)(has_milli, self.granted_milli)
        return self.bound.limit(has_milli, step_milli)

    def forbids(self, milli: int) -> bool:
        """Whether the size was refused, or lies beyond what is possible."""
        bound = self.bound
        edge = bound.refused_milli if bound.figure_milli is None else bound.figure_milli + (1 if bound.below else -1)
        return milli >= edge if bound.below else milli <= edge


@dataclass(frozen=True, slots=True)
class History:
    """What happened to a server's resizes so far; each look carries it to the next one.

    Attributes:
        patched_at: when a quota was last requested.
        resends: how often a stuck request was repeated.
        overlooked: whether the kubelet had overlooked the one before the newest.
        ceiling: sizes above it were refused; kept after it has ceased to hold, until a larger size is in force.
        floor: likewise for smaller sizes.
        quiet_until: no request is sent before this time.
        failures: refusals in a row that no other size avoids.
        blocked: the newest refusal that still matters.
        wanted_at: when the server last wanted a size that it does not have.
        grown_at: when a larger size came in force.
        shrunk_at: when a smaller size came in force.
        acknowledged: the newest budget and cap that the server acknowledged.
        usual_s: how long a resize usually takes here; None before the first one.
    """

    patched_at: float | None = None
    resends: int = 0
    overlooked: bool = False
    ceiling: Held | None = None
    floor: Held | None = None
    quiet_until: float = 0.0
    failures: int = 0
    blocked: Blocked | None = None
    wanted_at: float = 0.0
    grown_at: float | None = None
    shrunk_at: float | None = None
    acknowledged: ApplyRequest | None = None
    usual_s: float | None = None

    @property
    def overdue_s(self) -> float:
        """Seconds after which a resize is overdue."""
        return STUCK_S if self.usual_s is None else min(STUCK_S, max(SOONEST_S, OVERDUE * self.usual_s))

    def ceiling_milli(self, now: float, has_milli: int, step_milli: int) -> int | None:
        """The largest size that may be asked for, with `has_milli` in force; None for no known bound."""
        # The search for it begins above the sizes that are too small.
        too_small = (self.floor_milli(now, has_milli, step_milli) or 1) - 1
        return _limit(self.ceiling, now, max(has_milli, too_small), step_milli)

    def floor_milli(self, now: float, has_milli: int, step_milli: int) -> int | None:
        """The smallest size that may be asked for; None for no known bound."""
        return _limit(self.floor, now, has_milli, step_milli)


def _limit(held: Held | None, now: float, has_milli: int, step_milli: int) -> int | None:
    return held.limit(has_milli, step_milli) if held is not None and now < held.until else None


def step(observed: Observed, target_milli: int, history: History, now: float) -> Action:
    """The action that is due now to bring the quota to `target_milli`."""
    match observed:
        case NotResizable():
            return Nothing("NotResizable")
        case Idle(milli) if milli == target_milli:
            return Nothing("Settled")
        case _ if now < history.quiet_until:
            return Nothing("Refused")
        case Idle():
            return Nothing("Refused") if _is_refused(target_milli, history, now) else Patch(target_milli)
        case InFlight(spec_milli, _, overlooked):
            # A kubelet that has been away is back if it overlooks the size now and had not seen it before.
            resends = history.resends if overlooked == history.overlooked else 0
            patience = min(MAX_STUCK_S, STUCK_S * 2**resends) if resends else history.overdue_s
            if history.patched_at is not None and now - history.patched_at < patience:
                return Nothing("InFlight")
            return Patch(target_milli, resends + 1, overlooked, reminds=target_milli == spec_milli)
        case Deferred(spec, actual, message, node):
            return Revert(actual, "deferred", may_have(Refusal(spec, actual, message, "Deferred", node=node)))
        case Infeasible(spec, actual, message, node):
            return Revert(actual, "infeasible", may_have(Refusal(spec, actual, message, "Infeasible", node=node)))
        case Failed(spec, actual, message, node):
            return Revert(actual, "error", may_have(Refusal(spec, actual, message, "Error", node=node)))


def _is_refused(milli: int, history: History, now: float) -> bool:
    """Whether a size is known to be refused, whoever decided on it."""
    return any(
        held is not None and now < held.until and held.forbids(milli) for held in (history.ceiling, history.floor)
    )


# --- what is remembered ----------------------------------------------------------------------------------------------


def record(history: History, action: Action, now: float) -> History:
    """The history after an action was sent."""
    match action:
        case Patch(resends=resends, overlooked=overlooked):
            return replace(history, patched_at=now, resends=resends, overlooked=overlooked)
        case Revert(why=why):
            return refuse(replace(history, patched_at=now, resends=0), why, now)
        case _:
            return history


def refuse(history: History, why: Bound | Wait, now: float, jitter: float = 0.0) -> History:
    """The history after a refusal.

    Args:
        jitter: lengthens a wait by up to this share of it, so that many pods do not come back together; 0 to 1.
    """
    history = replace(history, blocked=Blocked(why.reason, why.message), wanted_at=now)
    match why:
        case Wait():
            waits_s = why.hold.seconds(history.failures)
            waits_s = max(waits_s, why.retry_after_s or 0.0) * (1.0 + jitter)
            return replace(history, quiet_until=now + waits_s, failures=history.failures + 1)
        case Bound(below=True):
            return replace(history, ceiling=_held(history.ceiling, why, now))
        case Bound():
            return replace(history, floor=_held(history.floor, why, now))


def _held(known: Held | None, bound: Bound, now: float) -> Held:
    if known is None or now >= known.until + FORGET_S:
        return Held(bound, now + bound.hold.seconds(0))
    holds = now < known.until
    again = known.again if holds else known.again + 1
    granted = known.granted_milli
    if holds or bound.figure_milli is None:
        # What was refused before is still refused: the search goes on where it was.
        nearest = min if bound.below else max
        bound = replace(bound, refused_milli=nearest(bound.refused_milli, known.bound.refused_milli))
    return Held(bound, now + bound.hold.seconds(again), again, granted)


def actuated(history: History, before_milli: int, milli: int, now: float, took_s: float) -> History:
    """The history after a size came in force, `took_s` after it was requested; forgets a bound that it disproves."""
    if milli > before_milli:
        history = replace(history, grown_at=now)
    elif milli < before_milli:
        history = replace(history, shrunk_at=now)
    ceiling, floor = _granted(history.ceiling, milli), _granted(history.floor, milli)
    still = {held.bound.reason for held in (ceiling, floor) if held is not None}
    blocked = history.blocked if history.blocked is not None and history.blocked.reason in still else None
    usual_s = history.usual_s
    if usual_s is None:
        usual_s = took_s
    else:
        usual_s *= USUAL_STEP if took_s > usual_s else 1.0 / USUAL_STEP
    return replace(history, ceiling=ceiling, floor=floor, blocked=blocked, failures=0, quiet_until=0.0, usual_s=usual_s)


def _granted(held: Held | None, milli: int) -> Held | None:
    if held is None or held.forbids(milli):
        return None
    nearest = max if held.bound.below else min
    return replace(held, granted_milli=milli if held.granted_milli is None else nearest(held.granted_milli, milli))


def unless_unwanted(history: History, now: float, *, wants: bool, bounded_by: Held | None = None) -> History:
    """The history with the refusal that matters, and without one that has not mattered for a while.

    Args:
        wants: the server should have a size that it does not get.
        bounded_by: the bound that keeps the server from it, if it is one.
    """
    if wants:
        blocked = history.blocked
        if blocked is None and bounded_by is not None:
            blocked = Blocked(bounded_by.bound.reason, bounded_by.bound.message)
        return replace(history, wanted_at=now, blocked=blocked)
    if history.blocked is not None and now - history.wanted_at >= SHOWN_S:
        return replace(history, blocked=None)
    return history
