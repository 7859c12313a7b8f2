"""The bandwidth of an uplink over time: the trace, and parsers for its two file formats.

Parsers take lines that the caller has read, and name the broken row in their errors. A trace repeats from its
beginning, so a run may be longer than its recording.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from sponge_core.errors import TraceError
from sponge_workload.rows import number_of, numbered

__all__ = ["BandwidthTrace", "parse_bandwidth", "parse_bandwidth_csv", "parse_ghent"]

BANDWIDTH_HEADER = "bytes_per_s"
GHENT_FIELDS = 6


@dataclass(frozen=True, slots=True)
class BandwidthTrace:
    """Piecewise-constant bandwidth that repeats from its end.

    Attributes:
        name: its source, for messages and reports.
        bytes_per_s: the bandwidth of each segment, >= 0, at least one above 0.
        durations_s: the length of each segment, > 0; one for each bandwidth.
    """

    name: str
    bytes_per_s: tuple[float, ...]
    durations_s: tuple[float, ...]
    _ends_s: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _sums: tuple[float, ...] = field(init=False, repr=False, compare=False)  # bytes carried by each segment's end

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
        """Seconds until the trace repeats."""
        return self._ends_s[-1]

    def starting_at(self, offset_s: float) -> BandwidthTrace:
        """The same trace, starting at `offset_s` >= 0; the part before that comes last."""
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
        """Bytes that the link can carry between the start and `at_s` >= 0."""
        rounds, rest = divmod(at_s, self.duration_s)
        index = bisect_right(self._ends_s, rest)
        start_s = self._ends_s[index - 1] if index else 0.0
        before = self._sums[index - 1] if index else 0.0
        return rounds * self._sums[-1] + before + self.bytes_per_s[index] * (rest - start_s)

    def upload_s(self, start_s: float, payload_bytes: float) -> float:
        """Seconds that an upload of `payload_bytes` >= 0 takes from `start_s` >= 0, with the link to itself."""
        if payload_bytes <= 0:
            return 0.0
        rounds, rest = divmod(self.carried(start_s) + payload_bytes, self._sums[-1])
        if rest <= 0.0:  # the last byte leaves as a round ends, not after a silence at the start of the next
            rounds, rest = rounds - 1, self._sums[-1]
        index = bisect_left(self._sums, rest)
        end_s = self._ends_s[index] - (self._sums[index] - rest) / self.bytes_per_s[index]
        return max(0.0, rounds * self.duration_s + end_s - start_s)


def parse_bandwidth(lines: Iterable[str], name: str) -> BandwidthTrace:
    """Parses a bandwidth trace in either format, recognised by its first line.

    Args:
        name: of the file, for error messages.

    Raises:
        TraceError: the file is empty or has a broken row.
    """
    rows = list(lines)
    first = rows[0].strip() if rows else ""
    return parse_bandwidth_csv(rows, name) if first[:1].isalpha() or "," in first else parse_ghent(rows, name)


def parse_ghent(lines: Iterable[str], name: str) -> BandwidthTrace:
    """Parses the format of the Ghent 4G logs (van der Hooft et al., IEEE Communications Letters 2016).

    Fields: epoch ms, ms since the start, latitude, longitude, bytes, ms since the last row.

    Raises:
        TraceError: the file is empty or has a broken row.
    """
    rates: list[float] = []
    durations: list[float] = []
    for number, line in numbered(lines):
        fields = line.split()
        if len(fields) != GHENT_FIELDS:
            raise TraceError(
                f"{name}, line {number}: {len(fields)} fields instead of 6; write 'epoch_ms ms_since_start latitude "
                f"longitude bytes ms_since_last_row', or a CSV file with the header {BANDWIDTH_HEADER}"
            )
        size = number_of(fields[4], name, number, "bytes", "the bytes received since the last row, 0 or more")
        millis = number_of(
            fields[5], name, number, "ms since the last row", "the milliseconds since the last row, above 0"
        )
        if millis <= 0:
            raise TraceError(f"{name}, line {number}: 0 ms since the last row; delete the repeated row")
        rates.append(size / millis * 1000.0)
        durations.append(millis / 1000.0)
    return _trace(name, rates, durations)


def parse_bandwidth_csv(lines: Iterable[str], name: str) -> BandwidthTrace:
    """Parses one column `bytes_per_s` under that header, one row for each second.

    Raises:
        TraceError: the header is missing, the file is empty or has a broken row.
    """
    rows = iter(numbered(lines))
    _, header = next(rows, (1, ""))
    if header != BANDWIDTH_HEADER:
        raise TraceError(
            f"{name}, line 1: the header is {header!r}; make it {BANDWIDTH_HEADER}, with one number a row below"
        )
    rates = [number_of(line, name, number, BANDWIDTH_HEADER, "bytes per second, 0 or more") for number, line in rows]
    return _trace(name, rates, [1.0] * len(rates))


def _trace(name: str, rates: Sequence[float], durations: Sequence[float]) -> BandwidthTrace:
    if not rates or max(rates) <= 0:
        raise TraceError(f"{name}: no row has any bytes; give a trace with at least one row above 0")
    return BandwidthTrace(name, tuple(rates), tuple(durations))
