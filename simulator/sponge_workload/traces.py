"""Traces: the uplink's bandwidth over time, and when requests arrive; recorded or drawn from a seed.

Parses lines that the caller read and names the broken row; opens no file and reads no clock. Traces end; the bandwidth
starts over from its beginning, so that a run may be longer than its recording.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from typing import Any, Literal

import numpy as np

from sponge_core.errors import TraceError

__all__ = [
    "BandwidthTrace",
    "burst_arrivals",
    "parse_arrivals",
    "parse_bandwidth",
    "parse_bandwidth_csv",
    "parse_ghent",
    "poisson_arrivals",
    "synthetic_4g",
    "synthetic_bursts",
    "thin_arrivals",
    "visit_arrivals",
]

BANDWIDTH_HEADER = "bytes_per_s"
ARRIVAL_HEADER = "arrival_s"
COUNT_HEADER = "requests_per_s"
TIMESTAMP_HEADER = "timestamp"

GHENT_FIELDS = 6

_4G_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_4G_MBIT_PER_S = (3.46, 7.08, 10.6, 20.8, 26.8, 34.3, 46.4, 51.2, 56.0)
_4G_AUTOREGRESSION = 0.762
"""Quantiles of the 4G uplink that was recorded on a bus in Ghent (van der Hooft et al., 2016), none of its rows; and
the autoregression whose ranks, mapped through them, have the recording's correlation of 0.75 from second to second."""

_VISIT_S, _SILENCE_S = 10.0, 180.0

_BYTES_PER_S_PER_MBIT = 125_000.0

_COUNTS: dict[str, tuple[tuple[float, ...], tuple[float, ...], float]] = {
    "twitter": ((0.0, 0.01, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0), (27, 32, 45, 53, 186, 231, 251, 274), 0.965),
    "azure-code": ((0.0, 0.73, 0.75, 0.95, 0.99, 1.0), (0, 0, 2, 13, 28, 67), 0.757),
}
"""Requests in a second at these quantiles and the correlation from second to second of two recordings: the public
Twitter stream of August 2021 (archive.org) and the Azure LLM inference trace 2023, code (Patel et al., ISCA 2024)."""


@dataclass(frozen=True, slots=True)
class BandwidthTrace:
    """Piecewise-constant bandwidth that starts over at its end.

    Attributes:
        name: where it came from, for messages and reports.
        bytes_per_s: the bandwidth of each segment, >= 0, at least one above 0.
        durations_s: how long each segment lasts, > 0, as many as `bytes_per_s`.
    """

    name: str
    bytes_per_s: tuple[float, ...]
    durations_s: tuple[float, ...]
    _ends_s: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _sums: tuple[float, ...] = field(init=False, repr=False, compare=False)  # bytes carried by the end of each segment

    def __post_init__(self) -> None:
        if not self.bytes_per_s or len(self.bytes_per_s) != len(self.durations_s):
            raise ValueError("a bandwidth trace needs one duration per bandwidth, and at least one of each")
        if min(self.bytes_per_s) < 0 or max(self.bytes_per_s) <= 0 or min(self.durations_s) <= 0:
            raise ValueError("bandwidths must be >= 0 with one above 0, durations above 0")
        carried = (rate * length for rate, length in zip(self.bytes_per_s, self.durations_s, strict=True))
        object.__setattr__(self, "_ends_s", tuple(accumulate(self.durations_s)))
        object.__setattr__(self, "_sums", tuple(accumulate(carried)))

    @property
    def duration_s(self) -> float:
        """Seconds until the trace starts over."""
        return self._ends_s[-1]

    def starting_at(self, offset_s: float) -> BandwidthTrace:
        """The same trace from `offset_s` >= 0 on; what was before that comes last."""
        offset_s %= self.duration_s
        index = bisect_right(self._ends_s, offset_s)
        passed_s = offset_s - (self._ends_s[index] - self.durations_s[index])
        rates = self.bytes_per_s[index:] + self.bytes_per_s[:index]
        durations = [*self.durations_s[index:], *self.durations_s[:index]]
        if passed_s > 0:
            durations[0] -= passed_s
            durations.append(passed_s)
            rates += rates[:1]
        return BandwidthTrace(self.name, rates, tuple(durations))

    def bandwidth_at(self, at_s: float) -> float:
        """Bytes per second at `at_s` >= 0 seconds after the start."""
        return self.bytes_per_s[bisect_right(self._ends_s, at_s % self.duration_s)]

    def carried(self, at_s: float) -> float:
        """Bytes that the link can carry from the start to `at_s` >= 0."""
        rounds, rest = divmod(at_s, self.duration_s)
        index = bisect_right(self._ends_s, rest)
        start_s = self._ends_s[index - 1] if index else 0.0
        before = self._sums[index - 1] if index else 0.0
        return rounds * self._sums[-1] + before + self.bytes_per_s[index] * (rest - start_s)

    def upload_s(self, start_s: float, payload_bytes: float) -> float:
        """Seconds that an upload of `payload_bytes` >= 0 takes from `start_s` >= 0 on, with the link to itself."""
        if payload_bytes <= 0:
            return 0.0
        rounds, rest = divmod(self.carried(start_s) + payload_bytes, self._sums[-1])
        if rest <= 0.0:  # the last byte leaves as a round ends, not after the silence that the next may begin with
            rounds, rest = rounds - 1, self._sums[-1]
        index = bisect_left(self._sums, rest)
        end_s = self._ends_s[index] - (self._sums[index] - rest) / self.bytes_per_s[index]
        return max(0.0, rounds * self.duration_s + end_s - start_s)


def parse_bandwidth(lines: Iterable[str], name: str) -> BandwidthTrace:
    """A bandwidth trace in either format, told apart by its first line.

    Raises:
        TraceError: the file is empty or has a broken row.
    """
    rows = list(lines)
    first = rows[0].strip() if rows else ""
    return parse_bandwidth_csv(rows, name) if first[:1].isalpha() or "," in first else parse_ghent(rows, name)


def parse_ghent(lines: Iterable[str], name: str) -> BandwidthTrace:
    """The format of the Ghent 4G logs: epoch ms, ms since start, latitude, longitude, bytes, ms since the last row.

    Raises:
        TraceError: the file is empty or has a broken row.
    """
    rates: list[float] = []
    durations: list[float] = []
    for number, line in _numbered(lines):
        fields = line.split()
        if len(fields) != GHENT_FIELDS:
            raise TraceError(
                f"{name}, line {number}: {len(fields)} fields where 6 are due; write 'epoch_ms ms_since_start latitude "
                f"longitude bytes ms_since_last_row', or a CSV file with the header {BANDWIDTH_HEADER}"
            )
        size = _number(fields[4], name, number, "bytes", "the bytes received since the last row, 0 or more")
        millis = _number(
            fields[5], name, number, "ms since the last row", "the milliseconds since the last row, above 0"
        )
        if millis <= 0:
            raise TraceError(f"{name}, line {number}: 0 ms since the last row; delete the repeated row")
        rates.append(size / millis * 1000.0)
        durations.append(millis / 1000.0)
    return _trace(name, rates, durations)


def parse_bandwidth_csv(lines: Iterable[str], name: str) -> BandwidthTrace:
    """One column `bytes_per_s` under that header, one row a second.

    Raises:
        TraceError: the header is missing, the file is empty or has a broken row.
    """
    rows = iter(_numbered(lines))
    _, header = next(rows, (1, ""))
    if header != BANDWIDTH_HEADER:
        raise TraceError(
            f"{name}, line 1: the header is {header!r}; make it {BANDWIDTH_HEADER}, with one number a row below"
        )
    rates = [_number(line, name, number, BANDWIDTH_HEADER, "bytes per second, 0 or more") for number, line in rows]
    return _trace(name, rates, [1.0] * len(rates))


def synthetic_4g(duration_s: int, seed: int) -> BandwidthTrace:
    """A 4G uplink of `duration_s` >= 1 rows of a second, with the recording's distribution and persistence.

    Every seed has the same worst, median and best second, at other times.
    """
    rates = _persistent(_4G_QUANTILES, _4G_MBIT_PER_S, _4G_AUTOREGRESSION, duration_s, seed) * _BYTES_PER_S_PER_MBIT
    return BandwidthTrace(f"synthetic 4G (seed {seed})", tuple(rates.tolist()), (1.0,) * duration_s)


def synthetic_bursts(kind: Literal["twitter", "azure-code"], duration_s: float, seed: int) -> tuple[float, ...]:
    """Arrivals in [0, duration_s) with the bursts of a recording: its counts per second, and how long they last."""
    quantiles, counts, autoregression = _COUNTS[kind]
    per_second = _persistent(quantiles, counts, autoregression, math.ceil(duration_s), seed)
    times = _spread([round(count) for count in per_second.tolist()], seed)
    return tuple(sorted(time for time in times if time < duration_s))


def _persistent(
    at: Sequence[float], values: Sequence[float], autoregression: float, count: int, seed: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A series with a given quantile function whose good and bad times last.

    A first-order autoregression gives the order, its ranks are mapped through the quantiles.
    """
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(count)
    noise[1:] *= math.sqrt(1.0 - autoregression**2)
    series = list(accumulate(noise.tolist(), lambda before, new: autoregression * before + new))
    ranks = np.argsort(np.argsort(series)) / max(1, count - 1)
    return np.interp(ranks, at, values)


def poisson_arrivals(rate_rps: float, duration_s: float, seed: int) -> tuple[float, ...]:
    """Seconds of arrival in [0, duration_s), ascending, of a Poisson process with `rate_rps` > 0."""
    rng = np.random.default_rng(seed)
    count = int(rng.poisson(rate_rps * duration_s))
    return tuple(np.sort(rng.uniform(0.0, duration_s, count)).tolist())


def burst_arrivals(rate_rps: float, duration_s: float) -> tuple[float, ...]:
    """All requests of a second at its beginning, as the paper's load generator sends them; fractions carry over."""
    seconds = math.ceil(duration_s)
    sent = [math.floor(rate_rps * min(second, duration_s) + 1e-9) for second in range(seconds + 1)]
    return tuple(float(second) for second in range(seconds) for _ in range(sent[second + 1] - sent[second]))


def visit_arrivals(rate_rps: float, duration_s: float, seed: int) -> tuple[float, ...]:
    """Seconds of arrival of a service that is seldom used: visits of 10 s, a Poisson process with `rate_rps` each,
    after silences of three minutes on average."""
    rng = np.random.default_rng(seed)
    times: list[float] = []
    start_s = float(rng.exponential(_SILENCE_S))
    while start_s < duration_s:
        count = int(rng.poisson(rate_rps * _VISIT_S))
        times += (start_s + np.sort(rng.uniform(0.0, _VISIT_S, count))).tolist()
        start_s += _VISIT_S + float(rng.exponential(_SILENCE_S))
    return tuple(time for time in times if time < duration_s)


def parse_arrivals(lines: Iterable[str], name: str, seed: int) -> tuple[float, ...]:
    """Seconds of arrival, ascending, from 0.

    The first line says what the rows are: `arrival_s` (seconds), `timestamp` as the first of any columns (date and
    time), `requests_per_s` or a bare number (how many in each second, then spread over it by `seed`).

    Raises:
        TraceError: the file is empty, its header is unknown or a row is broken.
    """
    rows = list(_numbered(lines))
    header = rows[0][1].split(",")[0].strip().lower() if rows else ""
    if header == ARRIVAL_HEADER:
        hint = "seconds since the start, 0 or more"
        times = [_number(line, name, number, ARRIVAL_HEADER, hint) for number, line in rows[1:]]
    elif header == TIMESTAMP_HEADER:
        times = [_timestamp(line.split(",")[0].strip(), name, number) for number, line in rows[1:]]
    elif header == COUNT_HEADER or header[:1].isdigit():
        times = _spread([_count(line, name, number) for number, line in rows[header == COUNT_HEADER :]], seed)
    else:
        raise TraceError(
            f"{name}, line 1: {header!r} is no known header; "
            f"make it {ARRIVAL_HEADER}, {TIMESTAMP_HEADER} or {COUNT_HEADER}"
        )
    if not times:
        raise TraceError(f"{name}: no request in it; give a file with at least one arrival")
    start_s = min(times) if header == TIMESTAMP_HEADER else 0.0
    return tuple(sorted(time - start_s for time in times))


def thin_arrivals(arrivals: Sequence[float], keep: float, seed: int) -> tuple[float, ...]:
    """Each arrival kept with probability `keep` in (0, 1]: a lower rate with the same ups and downs."""
    kept = np.random.default_rng(seed).random(len(arrivals)) < keep
    return tuple(time for time, stays in zip(arrivals, kept.tolist(), strict=True) if stays)


def _spread(counts: Sequence[int], seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    return [second + offset for second, count in enumerate(counts) for offset in rng.random(count).tolist()]


def _trace(name: str, rates: Sequence[float], durations: Sequence[float]) -> BandwidthTrace:
    if not rates or max(rates) <= 0:
        raise TraceError(f"{name}: no row carries a byte; give a trace with at least one row above 0")
    return BandwidthTrace(name, tuple(rates), tuple(durations))


def _numbered(lines: Iterable[str]) -> Iterable[tuple[int, str]]:
    return ((number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip())


def _number(text: str, name: str, number: int, what: str, hint: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise TraceError(f"{name}, line {number}: {what} is {text!r}; write {hint}")
    return value


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
