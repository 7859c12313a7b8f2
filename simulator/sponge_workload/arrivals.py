"""Arrival times of requests: drawn from processes, or parsed from files. All in seconds from the start, ascending."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime

import numpy as np

from sponge_core.errors import TraceError
from sponge_workload.rows import number_of, numbered

__all__ = [
    "burst_arrivals",
    "parse_arrivals",
    "poisson_arrivals",
    "spread_counts",
    "thin_arrivals",
    "visit_arrivals",
]

ARRIVAL_HEADER = "arrival_s"
COUNT_HEADER = "requests_per_s"
TIMESTAMP_HEADER = "timestamp"

_VISIT_S, _SILENCE_S = 10.0, 180.0


def poisson_arrivals(rate_rps: float, duration_s: float, seed: int) -> tuple[float, ...]:
    """Arrival times of a Poisson process with `rate_rps` > 0 requests per second, in seconds in [0, duration_s)."""
    rng = np.random.default_rng(seed)
    count = int(rng.poisson(rate_rps * duration_s))
    return tuple(np.sort(rng.uniform(0.0, duration_s, count)).tolist())


def burst_arrivals(rate_rps: float, duration_s: float) -> tuple[float, ...]:
    """Arrival times in [0, duration_s) with all requests of a second at its beginning; fractions carry over.

    The load generator of "Sponge" (EuroMLSys 2024) sends requests like this.
    """
    seconds = math.ceil(duration_s)
    sent = [math.floor(rate_rps * min(second, duration_s) + 1e-9) for second in range(seconds + 1)]
    return tuple(float(second) for second in range(seconds) for _ in range(sent[second + 1] - sent[second]))


def visit_arrivals(rate_rps: float, duration_s: float, seed: int) -> tuple[float, ...]:
    """Arrival times in [0, duration_s) of a service that is seldom used.

    Each visit is a Poisson process with `rate_rps` for 10 s; between visits there is silence, three minutes on average.
    """
    rng = np.random.default_rng(seed)
    times: list[float] = []
    start_s = float(rng.exponential(_SILENCE_S))
    while start_s < duration_s:
        count = int(rng.poisson(rate_rps * _VISIT_S))
        times += (start_s + np.sort(rng.uniform(0.0, _VISIT_S, count))).tolist()
        start_s += _VISIT_S + float(rng.exponential(_SILENCE_S))
    return tuple(time for time in times if time < duration_s)


def parse_arrivals(lines: Iterable[str], name: str, seed: int) -> tuple[float, ...]:
    """Parses arrival times, in seconds from 0, ascending.

    The first line says what the rows are: `arrival_s` (seconds), `timestamp` as the first of any columns (date and
    time), or `requests_per_s` or a bare number (the count of each second).

    Args:
        name: of the file, for error messages.
        seed: spreads the requests of a count over their second.

    Raises:
        TraceError: the file is empty, its header is unknown or a row is broken.
    """
    rows = list(numbered(lines))
    header = rows[0][1].split(",")[0].strip().lower() if rows else ""
    if header == ARRIVAL_HEADER:
        hint = "seconds since the start, 0 or more"
        times = [number_of(line, name, number, ARRIVAL_HEADER, hint) for number, line in rows[1:]]
    elif header == TIMESTAMP_HEADER:
        times = [_timestamp(line.split(",")[0].strip(), name, number) for number, line in rows[1:]]
    elif header == COUNT_HEADER or header[:1].isdigit():
        times = spread_counts([_count(line, name, number) for number, line in rows[header == COUNT_HEADER :]], seed)
    else:
        raise TraceError(
            f"{name}, line 1: {header!r} is not a known header; "
            f"make it {ARRIVAL_HEADER}, {TIMESTAMP_HEADER} or {COUNT_HEADER}"
        )
    if not times:
        raise TraceError(f"{name}: no requests; give a file with at least one arrival")
    start_s = min(times) if header == TIMESTAMP_HEADER else 0.0
    return tuple(sorted(time - start_s for time in times))


def thin_arrivals(arrivals: Sequence[float], keep: float, seed: int) -> tuple[float, ...]:
    """Keeps each arrival with probability `keep` in (0, 1]: a lower rate with the same ups and downs."""
    kept = np.random.default_rng(seed).random(len(arrivals)) < keep
    return tuple(time for time, stays in zip(arrivals, kept.tolist(), strict=True) if stays)


def spread_counts(counts: Sequence[int], seed: int) -> list[float]:
    """Arrival times: the count of each second, at random moments within it."""
    rng = np.random.default_rng(seed)
    return [second + offset for second, count in enumerate(counts) for offset in rng.random(count).tolist()]


def _count(text: str, name: str, number: int) -> int:
    if not text.isdecimal():
        raise TraceError(
            f"{name}, line {number}: {text!r} is not a count; write a whole number of requests in that second"
        )
    return int(text)


def _timestamp(text: str, name: str, number: int) -> float:
    try:
        return datetime.fromisoformat(text[:26]).timestamp()
    except ValueError:
        raise TraceError(
            f"{name}, line {number}: {text!r} is not a date and time; write it as 2023-11-16 18:15:46.680"
        ) from None
