"""Bandwidth traces: both formats, errors that name the broken row, and the integral behind an upload."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.errors import TraceError
from sponge_workload.bandwidth import BandwidthTrace, parse_bandwidth, parse_bandwidth_csv, parse_ghent

GHENT = ["1000 725 51.0 3.7 1450 725", "2000 1725 51.0 3.7 4000 1000", "", "3000 2725 51.0 3.7 0 1000"]


def test_ghent_rows_keep_their_own_durations() -> None:
    trace = parse_ghent(GHENT, "bus.log")
    assert trace.bytes_per_s == (2000.0, 4000.0, 0.0)
    assert trace.durations_s == (0.725, 1.0, 1.0)
    assert trace.duration_s == pytest.approx(2.725)


def test_the_format_is_told_from_the_first_line() -> None:
    assert parse_bandwidth(GHENT, "bus.log") == parse_ghent(GHENT, "bus.log")
    csv = ["bytes_per_s", "100", "0", "2.5e3"]
    assert parse_bandwidth(csv, "a.csv") == parse_bandwidth_csv(csv, "a.csv")
    assert parse_bandwidth(csv, "a.csv").bytes_per_s == (100.0, 0.0, 2500.0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*GHENT, "3000 2725 51.0"], "bus.log, line 5: 3 fields instead of 6"),
        (["1 2 3 4 many 6"], "bus.log, line 1: bytes is 'many'; write the bytes"),
        (["1 2 3 4 -5 6"], "bus.log, line 1: bytes is '-5'"),
        (["1 2 3 4 5 nan"], "bus.log, line 1: ms since the last row is 'nan'"),
        (["1 2 3 4 5 0"], "bus.log, line 1: 0 ms since the last row; delete"),
        ([], "bus.log: no row has any bytes"),
        (["1 2 3 4 0 1000"], "bus.log: no row has any bytes"),
        (["mbit", "3"], "bus.log, line 1: the header is 'mbit'; make it bytes_per_s"),
        (["bytes_per_s", "3", "fast"], "bus.log, line 3: bytes_per_s is 'fast'"),
    ],
)
def test_a_broken_bandwidth_row_is_named_with_its_cure(lines: list[str], message: str) -> None:
    with pytest.raises(TraceError, match="^" + message):
        parse_bandwidth(lines, "bus.log")


@pytest.mark.parametrize(
    ("start_s", "size", "seconds"),
    [
        (0.0, 100, 2.0),  # waits through the silent first second
        (0.0, 50, 1.5),
        (1.5, 50, 0.5),  # ends exactly with the segment
        (1.5, 51, 2.51),  # one byte more waits for the next round
        (4.5, 100, 3.0),  # in the second round already
        (2.0, 200, 6.0),
        (7.0, 0, 0.0),
    ],
)
def test_an_upload_takes_what_the_link_gives(start_s: float, size: float, seconds: float) -> None:
    trace = BandwidthTrace("on and off", (0.0, 100.0, 0.0), (1.0, 1.0, 1.0))
    assert trace.upload_s(start_s, size) == pytest.approx(seconds)


@given(
    rates=st.lists(st.floats(0, 1e7), min_size=1, max_size=20).filter(lambda values: max(values) > 1),
    start_s=st.floats(0, 100),
    size=st.floats(1, 1e6),
)
def test_the_link_carries_the_payload_during_its_upload(rates: list[float], start_s: float, size: float) -> None:
    trace = BandwidthTrace("any", tuple(rates), (1.0,) * len(rates))
    end_s = start_s + trace.upload_s(start_s, size)
    assert trace.carried(end_s) - trace.carried(start_s) == pytest.approx(size, rel=1e-6, abs=max(rates) * 1e-6)


def test_bandwidth_at_starts_over() -> None:
    trace = BandwidthTrace("two", (10.0, 20.0), (1.0, 0.5))
    assert [trace.bandwidth_at(t) for t in (0.0, 0.99, 1.0, 1.49, 1.5, 2.6)] == [10, 10, 20, 20, 10, 20]


@pytest.mark.parametrize("offset_s", [0.0, 0.3, 1.0, 1.2, 1.5, 4.4])
def test_starting_later_is_the_same_trace_shifted(offset_s: float) -> None:
    trace = BandwidthTrace("three", (10.0, 20.0, 40.0), (1.0, 0.5, 0.25))
    shifted = trace.starting_at(offset_s)
    assert shifted.duration_s == pytest.approx(trace.duration_s)
    for at_s in (0.013, 0.417, 0.951, 1.337, 1.609, 2.311):  # never on an edge
        assert shifted.bandwidth_at(at_s) == trace.bandwidth_at(at_s + offset_s)
        assert shifted.upload_s(at_s, 25) == pytest.approx(trace.upload_s(at_s + offset_s, 25))


@pytest.mark.parametrize(
    ("rates", "durations"), [((), ()), ((1.0,), ()), ((0.0,), (1.0,)), ((1.0,), (0.0,)), ((-1.0, 1.0), (1.0, 1.0))]
)
def test_an_impossible_trace_is_refused(rates: tuple[float, ...], durations: tuple[float, ...]) -> None:
    with pytest.raises(ValueError):
        BandwidthTrace("broken", rates, durations)
