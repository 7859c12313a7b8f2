"""When the answer to a request is due, read from its headers.

Pure: both clocks come in as arguments. Knows header names and units, nothing of sockets, queues or models.

How long the client is ready to wait: the most specific statement wins, in this order.

1. `x-sponge-slo-ms`: end-to-end milliseconds of this very request;
2. `x-sponge-slo-class`: the name of a class that the server was started with;
3. `parameters.timeout` in an Open Inference Protocol body, in microseconds;
4. `x-request-timeout-seconds` (Ray Serve);
5. `x-envoy-expected-rq-timeout-ms` (Envoy);
6. `grpc-timeout`: digits and one of H, M, S, m, u, n; over gRPC the deadline of the call itself;
7. the server's default.

From when: `x-sponge-sent-at` (epoch seconds) if it is plausible, else the moment the request's headers arrived; so the
time that the network took is part of the client's wait, and a slow upload is charged without any trust in clocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from sponge_core.errors import SpongeError

__all__ = ["DEFAULT_CLASS", "BadHeaderError", "Due", "SentAt", "SloPolicy", "resolve"]

SentAt = Literal["trusted", "absent", "future", "stale"]

DEFAULT_CLASS = "default"
"""The class of requests that name none."""

FUTURE_TOLERANCE_S = 0.05
"""A send time this far ahead of our clock is ordinary skew between synchronised machines; more is a wrong clock."""

STALE_S = 60.0
"""No request is on the way for longer: an older send time is a wrong clock or a replayed request."""

LONGEST_S = 3600.0
"""Upper bound of any time limit: beyond it a request only holds memory."""

GRPC_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

_DURATIONS: tuple[tuple[int, bytes, float], ...] = (
    (1, b"x-sponge-slo-ms", 1e-3),
    (4, b"x-request-timeout-seconds", 1.0),
    (5, b"x-envoy-expected-rq-timeout-ms", 1e-3),
)
"""Rank, header and seconds per unit of the headers that hold one number."""

_RANK_CLASS, _RANK_BODY, _RANK_GRPC, _RANK_DEFAULT = 2, 3, 6, 7


class BadHeaderError(SpongeError):
    """A header (or body parameter) about time that cannot be understood; the message names it."""


@dataclass(frozen=True, slots=True)
class SloPolicy:
    """What applies when a request says nothing, and the classes that it may name; seconds."""

    default_s: float
    classes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Due:
    """When a request was sent and when its answer is due, on the server's monotonic clock in seconds.

    `sent_at` says what became of the client's own send time; `rank` is the place of the rule above that set `limit_s`.
    `traceparent` is the client's place in a trace, unread here.
    """

    sent: float
    limit_s: float
    slo_class: str
    sent_at: SentAt
    rank: int
    traceparent: bytes = b""

    @property
    def deadline(self) -> float:
        return self.sent + self.limit_s

    @property
    def settled(self) -> bool:
        """Whether nothing in the body can change it."""
        return self.rank < _RANK_BODY

    def with_body_timeout(self, timeout_us: object) -> Due:
        """The same once the body's `parameters.timeout` is known. Raises BadHeaderError when it is no such number."""
        if isinstance(timeout_us, bool) or not isinstance(timeout_us, int | float):
            raise BadHeaderError(f"parameters.timeout is {timeout_us!r}: give microseconds as a number")
        limit_s = _checked("parameters.timeout", timeout_us * 1e-6, str(timeout_us))
        return replace(self, limit_s=limit_s, rank=_RANK_BODY) if self.rank > _RANK_BODY else self


def resolve(
    headers: Mapping[bytes, bytes],
    arrived: float,
    wall: float,
    policy: SloPolicy,
    call_timeout_s: float | None = None,
) -> Due:
    """The deadline of a request from its headers.

    Args:
        headers: lower-case names.
        arrived: monotonic seconds when the headers were in.
        wall: epoch seconds at the same moment.
        call_timeout_s: the deadline of the call itself, where its protocol has taken `grpc-timeout` from the headers.

    Raises:
        BadHeaderError: a header is present but cannot be understood; also one that another would overrule.
    """
    sent, sent_at = _sent(headers.get(b"x-sponge-sent-at"), arrived, wall)
    rank, limit_s, slo_class = _RANK_DEFAULT, policy.default_s, DEFAULT_CLASS
    raw = headers.get(b"grpc-timeout")
    if raw is not None:
        rank, limit_s = _RANK_GRPC, _grpc_timeout(raw)
    elif call_timeout_s is not None:
        # Callers set it generously, as a last resort; it is no wrong header when it is beyond what is waited for here.
        rank, limit_s = _RANK_GRPC, min(max(call_timeout_s, 0.0), LONGEST_S)
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
    return Due(sent, limit_s, slo_class, sent_at, rank, headers.get(b"traceparent", b""))


def _sent(raw: bytes | None, arrived: float, wall: float) -> tuple[float, SentAt]:
    if raw is None:
        return arrived, "absent"
    age_s = wall - _number(b"x-sponge-sent-at", raw)
    if age_s < -FUTURE_TOLERANCE_S:
        return arrived, "future"
    if age_s > STALE_S:
        return arrived, "stale"
    return arrived - max(0.0, age_s), "trusted"


def _grpc_timeout(raw: bytes) -> float:
    text = _text(raw)
    digits, unit = text[:-1], text[-1:]
    if unit not in GRPC_UNITS or not (digits.isascii() and digits.isdigit()) or len(digits) > 8:
        raise BadHeaderError(f"grpc-timeout is {text!r}: give up to 8 digits and one of H, M, S, m, u, n, as in 500m")
    return _checked("grpc-timeout", int(digits) * GRPC_UNITS[unit], text)


def _number(name: bytes, raw: bytes) -> float:
    try:
        # Python's own writing of 1_000 is nobody's in a header.
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
