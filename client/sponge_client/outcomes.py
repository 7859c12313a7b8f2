"""Outcomes of requests, and the figures of a run.

The client decides the outcome: a late answer is late, whatever the server reports. Each request has one outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sponge_core.control_api import OUTCOMES, Outcome

__all__ = ["RequestRecord", "Summary", "outcome_of", "summarize"]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request, all times in seconds.

    Attributes:
        at_s: when it was due to be sent, after the start of the run.
        lag_s: delay from then until its first byte left.
        payload_bytes: size of its body.
        upload_s: time of its upload over the replayed link; 0 without one.
        latency_s: from the time it was due to the last byte of the answer, or to the moment it was given up.
        status: of HTTP; 0 without an answer.
        server_timing: the `Server-Timing` header.
    """

    index: int
    at_s: float
    lag_s: float
    payload_bytes: int
    upload_s: float
    slo_s: float
    outcome: Outcome
    status: int
    latency_s: float
    server_timing: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a run. Percentiles are of answered requests (in time or late); None if there are none."""

    sent: int
    in_time: int
    late: int
    shed: int
    expired: int
    cancelled: int
    error: int
    goodput_rps: float
    attainment: float  # in time / sent; 1 if nothing was sent
    p50_ms: float | None
    p99_ms: float | None
    sender_lag_p99_ms: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def outcome_of(status: int, latency_s: float, slo_s: float) -> Outcome:
    """The outcome of a request that got a complete response of HTTP `status`."""
    if status == 200:
        return "in_time" if latency_s <= slo_s else "late"
    if status == 503:
        return "shed"
    return "expired" if status == 504 else "error"


def summarize(records: Sequence[RequestRecord], duration_s: float) -> Summary:
    """The figures of a run whose sending took `duration_s` > 0 seconds."""
    counts = dict.fromkeys(OUTCOMES, 0)
    for record in records:
        counts[record.outcome] += 1
    answered = [record.latency_s for record in records if record.status == 200]
    lags = [record.lag_s for record in records]
    return Summary(
        sent=len(records),
        **counts,
        goodput_rps=round(counts["in_time"] / duration_s, 3),
        attainment=counts["in_time"] / len(records) if records else 1.0,
        p50_ms=_percentile_ms(answered, 50),
        p99_ms=_percentile_ms(answered, 99),
        sender_lag_p99_ms=_percentile_ms(lags, 99),
    )


def _percentile_ms(values_s: Sequence[float], percent: float) -> float | None:
    return round(float(np.percentile(values_s, percent)) * 1000, 3) if values_s else None
