"""The forecast: the rate with its margin, the distribution of the remaining SLO, and forgetting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.forecast import Forecaster


def fed(rate: int, seconds: int, remaining: tuple[float, ...] = (0.8,)) -> Forecaster:
    forecaster = Forecaster()
    for i in range(rate * seconds):
        forecaster.observe(i / rate, remaining[i % len(remaining)])
    return forecaster


def test_nothing_seen_nothing_expected() -> None:
    forecaster = Forecaster()
    assert forecaster.rate(1.0) == 0.0
    assert forecaster.forecast(1.0, 1.0) == []
    assert forecaster.remaining_quantiles(1.0, (0.5,)) == []


def test_a_steady_rate_is_found_and_half_a_standard_deviation_added() -> None:
    forecaster = fed(20, 10)
    assert forecaster.rate(10.0) == pytest.approx(20, rel=0.06)
    assert len(forecaster.forecast(10.0, 1.0)) == pytest.approx(20 + 0.5 * 20**0.5, abs=1.5)


def test_a_rise_counts_before_the_long_window_has_seen_it() -> None:
    forecaster = fed(5, 10)
    for i in range(80):
        forecaster.observe(10 + i / 40, 0.8)
    assert forecaster.rate(12.0) > 30


def test_bursts_at_a_steady_rate_are_no_rise() -> None:
    forecaster = Forecaster()
    for second in range(10):
        for _ in range(20):
            forecaster.observe(second + 0.5, 0.8)
    # Two seconds may hold two bursts or three; three are no reason to expect 30/s.
    assert forecaster.rate(9.6) == pytest.approx(20, rel=0.15)
    assert forecaster.rate(10.4) == pytest.approx(20, rel=0.15)


def test_the_forecast_carries_the_distribution_not_the_minimum() -> None:
    arrivals = fed(50, 10, remaining=(0.3, 0.3, 0.3, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)).forecast(10.0, 2.0)
    # 30 of the hundred, and the margin's five besides, which are of the tightest.
    tight = sum(1 for a in arrivals if a.deadline - a.at < 0.5)
    assert tight / len(arrivals) == pytest.approx(35 / 105, abs=0.03)


def test_the_margin_is_made_of_the_tightest_and_spread_evenly() -> None:
    arrivals = fed(50, 10, remaining=(0.3, *[1.0] * 19)).forecast(10.0, 2.0)
    tight = [a.at for a in arrivals if a.deadline - a.at < 0.5]
    # One in twenty of the hundred, and half a standard deviation of them besides: half of the tightest tenth is tight.
    assert len(arrivals) == pytest.approx(105, abs=1)
    assert 6 <= len(tight) <= 8
    assert max(b - a for a, b in zip([10.0, *tight], [*tight, 12.0], strict=True)) < 0.5


def test_the_forecast_keeps_the_models_shares_and_each_its_own_slo() -> None:
    forecaster = Forecaster()
    for i in range(500):
        forecaster.observe(i / 50, *((0.3, 1) if i % 5 == 0 else (1.0, 0)))
    arrivals = forecaster.forecast(10.0, 2.0)
    # 20 of the hundred, and the margin's five besides, as that model is the tighter one.
    assert sum(a.model for a in arrivals) == pytest.approx(25, abs=2)
    assert all(a.deadline - a.at == pytest.approx(0.3 if a.model else 1.0) for a in arrivals)


def test_old_arrivals_are_forgotten() -> None:
    assert fed(20, 5).rate(60.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(-0.5, 2, width=16)), max_size=60), st.floats(0.1, 3))
def test_a_forecast_is_ordered_and_inside_its_horizon(seen: list[tuple[float, float]], horizon: float) -> None:
    forecaster = Forecaster()
    for at, left in sorted(seen):
        forecaster.observe(at, left)
    arrivals = forecaster.forecast(10.0, horizon)
    assert arrivals == sorted(arrivals)
    assert all(10.0 < a.at <= 10.0 + horizon and a.deadline > a.at for a in arrivals)
