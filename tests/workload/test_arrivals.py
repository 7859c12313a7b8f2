"""Arrival times: processes, recorded formats, and errors that name the broken row."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from sponge_core.errors import TraceError
from sponge_workload.arrivals import burst_arrivals, parse_arrivals, poisson_arrivals, thin_arrivals, visit_arrivals


def test_visits_are_short_and_far_apart() -> None:
    arrivals = visit_arrivals(10, 36_000, 1)
    silences = [later - at for at, later in pairwise(arrivals) if later - at > 10]
    assert len(silences) == pytest.approx(36_000 / 190, rel=0.2)
    assert len(arrivals) / (len(silences) + 1) == pytest.approx(100, rel=0.1)
    assert arrivals == visit_arrivals(10, 36_000, 1) != visit_arrivals(10, 36_000, 2)


def test_poisson_arrivals_are_poisson() -> None:
    arrivals = poisson_arrivals(50, 1000, 3)
    assert list(arrivals) == sorted(arrivals)
    assert arrivals[0] >= 0
    assert arrivals[-1] < 1000
    per_second = np.bincount(np.array(arrivals).astype(int), minlength=1000)
    assert per_second.mean() == pytest.approx(50, rel=0.03)
    assert per_second.var() == pytest.approx(50, rel=0.15)


def test_bursts_come_on_the_second_and_fractions_carry_over() -> None:
    assert burst_arrivals(2.5, 3.5) == (0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0)
    assert len(burst_arrivals(0.3, 10)) == 3


@pytest.mark.parametrize(
    ("lines", "times"),
    [
        (["arrival_s", "2.5", "1"], (1.0, 2.5)),
        (
            ["TIMESTAMP,tokens", "2023-11-16 18:15:46.6805900,374", "2023-11-16 18:15:50.9951690,39"],
            (0.0, 4.314579),
        ),
    ],
)
def test_arrival_times_as_recorded(lines: list[str], times: tuple[float, ...]) -> None:
    assert parse_arrivals(lines, "a.csv", seed=1) == pytest.approx(times)


@pytest.mark.parametrize("lines", [["3", "0", "2"], ["requests_per_s", "3", "0", "2"]])
def test_counts_are_spread_over_their_second(lines: list[str]) -> None:
    arrivals = parse_arrivals(lines, "counts.txt", seed=1)
    assert [int(time) for time in arrivals] == [0, 0, 0, 2, 2]
    assert all(a <= b for a, b in pairwise(arrivals))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "a.csv, line 1: '' is not a known header"),
        (["when"], "a.csv, line 1: 'when' is not a known header; make it arrival_s, timestamp or requests_per_s"),
        (["arrival_s"], "a.csv: no requests"),
        (["0", "0"], "a.csv: no requests"),
        (["arrival_s", "soon"], "a.csv, line 2: arrival_s is 'soon'"),
        (["3", "-1"], "a.csv, line 2: '-1' is not a count"),
        (["timestamp", "yesterday"], "a.csv, line 2: 'yesterday' is not a date and time"),
    ],
)
def test_a_broken_arrival_row_is_named_with_its_cure(lines: list[str], message: str) -> None:
    with pytest.raises(TraceError, match="^" + message):
        parse_arrivals(lines, "a.csv", seed=1)


def test_thinning_keeps_a_share() -> None:
    arrivals = poisson_arrivals(100, 100, 1)
    kept = thin_arrivals(arrivals, 0.2, seed=5)
    assert set(kept) <= set(arrivals)
    assert len(kept) / len(arrivals) == pytest.approx(0.2, abs=0.02)
