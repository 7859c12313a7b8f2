"""Deadline of a request, from its headers.

The time limit is the most specific of these statements, in this order:

1. `x-sponge-slo-ms`: end-to-end milliseconds of this request;
2. `x-llm-d-slo-ttft-ms` (llm-d): milliseconds to the first token; an answer that comes at once is its own first token;
3. `x-slo-ttft-ms` (Gateway API Inference Extension): the same;
4. `x-sponge-slo-class`: the name of an SLO class that the server was started with;
5. `parameters.timeout` in an Open Inference Protocol body, in microseconds; 0 means none, as for Triton;
6. `x-request-timeout-seconds` (Ray Serve);
7. `x-envoy-expected-rq-timeout-ms` (Envoy);
8. `grpc-timeout`: digits and one of H, M, S, m, u, n; over gRPC, the deadline of the call itself;
9. the server's default.

The accuracy floor is that of the SLO class, or else `x-sponge-accuracy-floor`, or `parameters.accuracy_floor` of the
body; a request may raise the floor of its class and not lower it.

The limit counts from `x-sponge-sent-at` (epoch seconds) if that is plausible, else from the arrival of the headers. So
the time in the network is part of the client's wait, and a slow upload counts without any trust in clocks. A clock that
is behind is learnt and set right; `Claims` bounds what a client may state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from sponge_core.client_clock import ClientClock, Reading
from sponge_core.errors import SpongeError

__all__ = [
    "DEFAULT_CLASS",
    "LONGEST_S",
    "SENT_AT",
    "Arrival",
    "BadHeaderError",
    "Claims",
    "Due",
    "SentAt",
    "SloPolicy",
    "resolve",
]

SentAt = Literal["trusted", "absent", "behind", "future", "stale"]
"""`behind`: used after the clock was set right. `future`, `stale`: ignored."""

DEFAULT_CLASS = "default"
"""The SLO class of requests that name none."""

FUTURE_TOLERANCE_S = 0.05
"""A send time this far ahead of our clock is normal skew between synchronised machines; more is a wrong clock."""

STALE_S = 3600.0
"""An older send time says nothing about a clock: it is a replayed request, or no time of day."""

LONGEST_S = 3600.0
"""Upper bound of any time limit; a request that waits longer only holds memory."""

SENT_AT = b"x-sponge-sent-at"
ACCURACY_FLOOR = b"x-sponge-accuracy-floor"

GRPC_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

_DURATIONS: tuple[tuple[int, bytes, float], ...] = (
    (1, b"x-sponge-slo-ms", 1e-3),
    (2, b"x-llm-d-slo-ttft-ms", 1e-3),
    (3, b"x-slo-ttft-ms", 1e-3),
    (6, b"x-request-timeout-seconds", 1.0),
    (7, b"x-envoy-expected-rq-timeout-ms", 1e-3),
)
"""Rank, name and seconds per unit of each header that holds one number."""

_RANK_CLASS, _RANK_BODY, _RANK_GRPC, _RANK_DEFAULT = 4, 5, 8, 9


class BadHeaderError(SpongeError):
    """A header or body parameter about time is invalid; the message names it."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a client may claim, in seconds.

    Attributes:
        shortest_s, longest_s: bounds of a time limit that a request states; one beyond them counts as the bound.
        oldest_s: the longest time on the way that a send time may claim.
    """

    shortest_s: float = 0.0
    longest_s: float = LONGEST_S
    oldest_s: float = 2.0

    def bounded(self, limit_s: float) -> float:
        """The time limit that counts for a request that states this one."""
        return min(max(limit_s, self.shortest_s), self.longest_s)


@dataclass(frozen=True, slots=True)
class SloPolicy:
    """The default time limit and those of the SLO classes, in seconds, and the bounds of other ones.

    Attributes:
        floors: accuracy floors by class, `DEFAULT_CLASS` included; a class without one wants the model itself.
    """

    default_s: float
    classes: Mapping[str, float] = field(default_factory=dict)
    claims: Claims = Claims()
    floors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Due:
    """When a request was sent and when its answer is due.

    Attributes:
        sent: when the client sent it, on the server's monotonic clock, in seconds.
        limit_s: end-to-end time limit.
        sent_at: whether the client's own send time was used, and why not.
        rank: number of the rule above that set `limit_s`.
        traceparent: the client's place in a trace.
        floor: least accuracy of the answer; infinite: only the model itself may answer.
    """

    sent: float
    limit_s: float
    slo_class: str
    sent_at: SentAt
    rank: int
    traceparent: bytes = b""
    floor: float = math.inf

    @property
    def deadline(self) -> float:
        return self.sent + self.limit_s

    @property
    def settled(self) -> bool:
        """Whether nothing in the body can change the deadline."""
        return self.rank < _RANK_BODY

    def with_body_timeout(self, timeout_us: object, claims: Claims) -> Due:
        """The deadline once `parameters.timeout` of the body is known: microseconds, or 0 for none.

        Raises BadHeaderError for an invalid value.
        """
        if isinstance(timeout_us, bool) or not isinstance(timeout_us, int | float):
            raise BadHeaderError(f"parameters.timeout is {timeout_us!r}: give microseconds as a number")
        if timeout_us == 0:
            return self
        limit_s = claims.bounded(_checked("parameters.timeout", timeout_us * 1e-6, str(timeout_us)))
        return replace(self, limit_s=limit_s, rank=_RANK_BODY) if self.rank > _RANK_BODY else self

    def with_body_floor(self, floor: object, policy: SloPolicy) -> Due:
        """The floor once `parameters.accuracy_floor` of the body is known; it counts where no header states one.

        Raises BadHeaderError for an invalid value.
        """
        if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0.0 < floor <= 1.0:
            raise BadHeaderError(f"parameters.accuracy_floor is {floor!r}: give a number above 0 and at most 1")
        of_class = policy.floors.get(self.slo_class, math.inf)
        return self if self.floor != of_class else replace(self, floor=_lower_bound(of_class, float(floor)))


@dataclass(frozen=True, slots=True)
class Arrival:
    """The headers of a request, and what all clocks said when they were in.

    Attributes:
        headers: lower-case names.
        at: when they were in, in monotonic seconds.
        timeout_s: the deadline of the call itself, if the protocol took `grpc-timeout` out of the headers.
        age_s: how long ago the client sent it, by its own clock; None: it does not say.
        clocks: what was known of the client's clock, with this request.
    """

    headers: Mapping[bytes, bytes]
    at: float
    timeout_s: float | None = None
    age_s: float | None = None
    clocks: Sequence[Reading] = ()

    @classmethod
    def of(
        cls,
        headers: Mapping[bytes, bytes],
        at: float,
        wall: float,
        timeout_s: float | None = None,
        clocks: Sequence[ClientClock] = (),
    ) -> Arrival:
        """The arrival of a request at `wall` epoch seconds; `clocks` learn from it, so make one for each request.

        Raises BadHeaderError for an invalid send time.
        """
        raw = headers.get(SENT_AT)
        if raw is None:
            return cls(headers, at, timeout_s)
        age_s = wall - _number(SENT_AT, raw)
        plausible = -FUTURE_TOLERANCE_S <= age_s <= STALE_S
        return cls(headers, at, timeout_s, age_s, [clock.observe(at, age_s) for clock in clocks] if plausible else ())


def resolve(arrival: Arrival, policy: SloPolicy) -> Due:
    """The deadline of a request from its headers; `policy`: what applies where the request states nothing.

    Reads only: a request may be resolved again once its model is known.

    Raises:
        BadHeaderError: a header is invalid, even if another one takes precedence.
    """
    headers = arrival.headers
    rank, limit_s, slo_class = _RANK_DEFAULT, policy.default_s, DEFAULT_CLASS
    raw = headers.get(b"grpc-timeout")
    if raw is not None:
        rank, limit_s = _RANK_GRPC, _grpc_timeout(raw)
    elif arrival.timeout_s is not None:
        # Callers set it generously, as a last resort: a value beyond the upper bound is not an error.
        rank, limit_s = _RANK_GRPC, min(max(arrival.timeout_s, 0.0), LONGEST_S)
    for candidate, name, unit_s in reversed(_DURATIONS):
        raw = headers.get(name)
        if raw is not None:
            rank, limit_s = candidate, _checked(name.decode(), _number(name, raw) * unit_s, _text(raw))
    raw = headers.get(b"x-sponge-slo-class")
    if raw is not None:
        slo_class = _text(raw)
        if slo_class not in policy.classes:
            known = ", ".join(sorted(policy.classes)) or "none (start the server with --slo-class NAME=MS)"
            raise BadHeaderError(f"x-sponge-slo-class: unknown class {slo_class!r}; known: {known}")
        if rank > _RANK_CLASS:
            rank, limit_s = _RANK_CLASS, policy.classes[slo_class]
    if rank not in (_RANK_CLASS, _RANK_DEFAULT):
        limit_s = policy.claims.bounded(limit_s)
    sent, sent_at = _sent(arrival, limit_s, policy.claims.oldest_s)
    floor = _floor(policy.floors.get(slo_class, math.inf), headers.get(ACCURACY_FLOOR))
    return Due(sent, limit_s, slo_class, sent_at, rank, headers.get(b"traceparent", b""), floor)


def _floor(of_class: float, raw: bytes | None) -> float:
    """The floor of a request, given that of its class, infinite without one, and its header."""
    if raw is None:
        return of_class
    own = _number(ACCURACY_FLOOR, raw)
    if not 0.0 < own <= 1.0:
        raise BadHeaderError(f"{ACCURACY_FLOOR.decode()} is {_text(raw)}: give a number above 0 and at most 1")
    return _lower_bound(of_class, own)


def _lower_bound(of_class: float, own: float) -> float:
    return own if of_class == math.inf else max(own, of_class)


def _sent(arrival: Arrival, limit_s: float, oldest_s: float) -> tuple[float, SentAt]:
    """When a request was sent, and how its own send time was used."""
    age_s = arrival.age_s
    if age_s is None:
        return arrival.at, "absent"
    if age_s < -FUTURE_TOLERANCE_S:
        return arrival.at, "future"
    if age_s > STALE_S:
        return arrival.at, "stale"
    behind_s = max((clock.behind_s(limit_s, oldest_s) for clock in arrival.clocks), default=0.0)
    age_s = max(0.0, age_s - behind_s)
    if age_s > oldest_s:
        return arrival.at, "stale"
    return arrival.at - age_s, "behind" if behind_s else "trusted"


def _grpc_timeout(raw: bytes) -> float:
    text = _text(raw)
    digits, unit = text[:-1], text[-1:]
    if unit not in GRPC_UNITS or not (digits.isascii() and digits.isdigit()) or len(digits) > 8:
        raise BadHeaderError(f"grpc-timeout is {text!r}: give up to 8 digits and one of H, M, S, m, u, n, as in 500m")
    return _checked("grpc-timeout", int(digits) * GRPC_UNITS[unit], text)


def _number(name: bytes, raw: bytes) -> float:
    try:
        # Python would accept 1_000, which no header means.
        value = math.nan if b"_" in raw else float(raw)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadHeaderError(f"{name.decode()} is {_text(raw)!r}: give a number")
    return value


def _checked(name: str, limit_s: float, shown: str) -> float:
    if not 0.0 < limit_s <= LONGEST_S:
        raise BadHeaderError(f"{name} is {shown}: give more than 0 and at most {LONGEST_S:.0f} seconds' worth")
    return limit_s


def _text(raw: bytes) -> str:
    return raw.decode("latin-1").strip()
