"""What earlier bursts say about the rest of the present one."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.bursts import REMEMBERED_S, TOGETHER_S, BurstHistory
from sponge_core.forecast import Forecaster

RATE = 6.0


def after(sizes: Sequence[int], every_s: float = 10.0) -> BurstHistory:
    """Bursts of these sizes, the last of which is still arriving."""
    history = BurstHistory()
    for number, size in enumerate(sizes):
        history.begin(number * every_s, RATE)
        for _ in range(size):
            history.add()
    return history


@pytest.mark.parametrize(
    ("sizes", "further"),
    [
        ([], 0),
        ([8], 0),
        ([20, 8], 0),  # one burst says nothing about the next
        ([20, 20, 8], 12),
        ([20, 20, 20], 0),
        ([20, 20, 25], 0),
        ([20, 20, 4], 0),  # no more than the rate explains
        ([10, 20, 30, 8], 12),
        ([10, 20, 30, 15], 15),  # half of the larger ones
        ([8, 8, 8, 20, 20, 8], 0),
        ([8, 8, 8, 20, 20, 9], 11),
    ],
)
def test_half_of_the_bursts_that_became_as_large_became_that_large(sizes: Sequence[int], further: int) -> None:
    assert after(sizes).further(10.0 * max(0, len(sizes) - 1) + 0.1)[0] == further


def test_a_burst_is_over_soon_and_forgotten_later() -> None:
    history = after([20, 20, 8])
    assert history.further(20.0 + TOGETHER_S) == (0, 20.0 + TOGETHER_S)
    later = 21.0 + REMEMBERED_S
    history.begin(later, RATE)
    for _ in range(8):
        history.add()
    assert history.further(later + 0.1)[0] == 0


def test_the_first_requests_of_a_repeated_burst_are_enough_to_expect_the_rest() -> None:
    forecaster = Forecaster()
    for second in (10.0, 20.0, 30.0):
        for number in range(20):
            forecaster.observe(second + number / 200, 0.8)
    usual = len(forecaster.forecast(30.1, 1.0))
    for number in range(6):
        forecaster.observe(40.0 + number / 200, 0.8)
    arrivals = forecaster.forecast(40.03, 1.0)
    assert len(arrivals) >= 20 - 6
    assert sum(arrival.at <= 40.0 + TOGETHER_S for arrival in arrivals) >= 12
    assert usual < 14


@given(st.integers(0, 1000), st.sampled_from([2.0, 10.0, 50.0, 200.0]))
def test_steady_traffic_is_forecast_as_without_bursts(seed: int, rate: float) -> None:
    draw, forecaster, now = random.Random(seed), Forecaster(), 0.0
    further = looks = 0
    for _ in range(600):
        now += draw.expovariate(rate)
        forecaster.observe(now, 0.8)
        looks += 1
        expected = forecaster.rate(now)
        further += len(forecaster.forecast(now, 1.0)) - round(expected + 0.5 * expected**0.5)
    assert 0 <= further / looks <= 0.05 * rate


@given(st.lists(st.tuples(st.floats(0.0, 2.0), st.integers(1, 30)), max_size=20), st.floats(0.1, 3))
def test_a_forecast_with_bursts_is_ordered_and_inside_its_horizon(
    groups: list[tuple[float, int]], horizon: float
) -> None:
    forecaster, now = Forecaster(), 0.0
    for gap, size in groups:
        now += gap
        for _ in range(size):
            forecaster.observe(now, 0.8)
    arrivals = forecaster.forecast(now, horizon)
    assert arrivals == sorted(arrivals)
    assert all(now < a.at <= now + horizon and a.deadline > a.at for a in arrivals)
