"""Who leads, from what a Lease says and when it said so. Pure.

Clocks of different machines are never compared: a candidate measures by its own clock for how long a Lease has not
changed. The leader counts from before it sent its last renewal, so it gives up earlier than anybody else may take over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = [
    "LEASE_S",
    "LOOK_S",
    "Election",
    "Lease",
    "Renew",
    "Resign",
    "Step",
    "Take",
    "Wait",
    "left_s",
    "next_step",
    "observe",
    "renewed",
]

LEASE_S = 10.0
"""How long a Lease that is not renewed keeps others away."""

RENEW_S = 2.0
"""Between two renewals."""

HOLD_S = 7.0
"""After the last renewal that succeeded, the leader stops. The rest of `LEASE_S` is for its loops to end."""

LOOK_S = 1.0
"""Between two looks of those who wait."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A Lease as the API server has it.

    Attributes:
        holder: identity of the leader; empty after a clean stop.
        version: changes with each renewal.
        duration_s: how long it keeps others away.
        transitions: how often it has changed hands.
    """

    holder: str
    version: str
    duration_s: float
    transitions: int


@dataclass(frozen=True, slots=True)
class Election:
    """What a candidate knows; times on its own clock.

    Attributes:
        me: identity of the candidate.
        lease: as it was seen last; None if there is none.
        seen_at: when `lease` was seen to change.
        held_since: when the last renewal by this process was sent; None: it does not lead.
    """

    me: str
    lease: Lease | None = None
    seen_at: float = 0.0
    held_since: float | None = None

    def may_act(self, now: float) -> bool:
        """Whether nobody else can lead now."""
        return left_s(self, now) > 0


@dataclass(frozen=True, slots=True)
class Take:
    """Try to become the leader: create the Lease, or put the own name into this version of it."""

    present: Lease | None


@dataclass(frozen=True, slots=True)
class Renew:
    """Renew this version of the Lease."""

    present: Lease


@dataclass(frozen=True, slots=True)
class Resign:
    """Stop to act at once: another may lead soon, or does so already."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Look at the Lease again after so many seconds."""

    seconds: float


Step = Take | Renew | Resign | Wait


def next_step(election: Election, now: float) -> Step:
    """What to do now."""
    lease = election.lease
    if election.held_since is not None:
        if lease is None or lease.holder != election.me or not election.may_act(now):
            return Resign()
        left_s = election.held_since + RENEW_S - now
        return Wait(left_s) if left_s > 0 else Renew(lease)
    # A Lease in the own name is that of a former process of this pod: it has ended, as this one runs.
    if lease is None or lease.holder in ("", election.me) or now - election.seen_at >= lease.duration_s:
        return Take(lease)
    return Wait(LOOK_S)


def left_s(election: Election, now: float) -> float:
    """For how many seconds the candidate still leads; 0 if it does not."""
    return 0.0 if election.held_since is None else max(0.0, election.held_since + HOLD_S - now)


def observe(election: Election, lease: Lease | None, now: float) -> Election:
    """The Lease was read."""
    if lease == election.lease:
        return election
    return replace(election, lease=lease, seen_at=now)


def renewed(election: Election, lease: Lease, sent_at: float) -> Election:
    """The API server has accepted a `Take` or a `Renew`, which was sent at `sent_at`."""
    return replace(election, lease=lease, seen_at=sent_at, held_since=sent_at)
