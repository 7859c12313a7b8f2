"""Outcomes of requests and the figures of a run, as the client sees them. Pure, and the same for every system.

- in_time, late: the correct answer came, before or after the deadline;
- shed: refused before the deadline, so that the client can still react;
- rejected_late: refused after the deadline;
- client_timeout: no answer came before the client disconnected;
- error: anything else, such as a server failure, a wrong answer or a broken connection.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from bench.serving.schedule import Mix

__all__ = ["OUTCOMES", "Answer", "Outcome", "outcome_of", "summarise"]

Outcome = Literal["in_time", "late", "shed", "rejected_late", "client_timeout", "error"]
OUTCOMES: tuple[Outcome, ...] = ("in_time", "late", "shed", "rejected_late", "client_timeout", "error")


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as its sender saw it; times in seconds.

    Attributes:
        at_s: when it was due to be sent, after the start of the run.
        lag_s: how much later its first byte left.
        latency_s: from the intended send to the last byte of the answer, or until it was given up.
        status: of HTTP; 0 when none came.
        right: whether a 200 held the model's answer to this very input.
        gave_up: the client hung up.
    """

    at_s: float
    slo_s: float
    lag_s: float
    latency_s: float
    status: int
    right: bool = False
    gave_up: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def outcome_of(answer: Answer, refusals: Collection[int]) -> Outcome:
    """The outcome of a request to a server that refuses with the status codes `refusals`."""
    if answer.gave_up:
        return "client_timeout"
    in_time = answer.latency_s <= answer.slo_s
    if answer.status == 200 and answer.right:
        return "in_time" if in_time else "late"
    if answer.status in refusals:
        return "shed" if in_time else "rejected_late"
    return "error"


def summarise(
    answers: Sequence[Answer], refusals: Collection[int], mix: Mix, warmup_s: float, duration_s: float
) -> dict[str, Any]:
    """The figures of a run, as plain JSON.

    Args:
        warmup_s: requests due before this time are sent but not counted.
        duration_s: duration of sending, with the warm-up.

    Returns:
        Counts of outcomes; rates per second of the measured time; attainment over all that were sent; percentiles of
        right answers, None when there was none; the same counts by class.
    """
    counted = [answer for answer in answers if answer.at_s >= warmup_s]
    measured_s = duration_s - warmup_s
    outcomes = [outcome_of(answer, refusals) for answer in counted]
    counts: dict[str, int] = {name: outcomes.count(name) for name in OUTCOMES}
    classes: dict[str, dict[str, int]] = {name: dict.fromkeys(("sent", *OUTCOMES), 0) for name in mix.classes}
    for answer, outcome in zip(counted, outcomes, strict=True):
        of_class = classes[mix.class_of(answer.slo_s)]
        of_class["sent"] += 1
        of_class[outcome] += 1
    latencies = [a.latency_s for a, o in zip(counted, outcomes, strict=True) if o in ("in_time", "late")]
    return {
        "sent": len(counted),
        **counts,
        "wrong": sum(answer.status == 200 and not answer.right and not answer.gave_up for answer in counted),
        "offered_rps": round(len(counted) / measured_s, 3),
        "goodput_rps": round(counts["in_time"] / measured_s, 3),
        "attainment": round(counts["in_time"] / len(counted), 5) if counted else 1.0,
        "p50_ms": _percentile_ms(latencies, 50),
        "p99_ms": _percentile_ms(latencies, 99),
        "lag_p99_ms": _percentile_ms([answer.lag_s for answer in answers], 99),
        "classes": classes,
    }


def _percentile_ms(values_s: Sequence[float], percent: float) -> float | None:
    return round(float(np.percentile(values_s, percent)) * 1000, 3) if values_s else None
