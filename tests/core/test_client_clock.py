"""A client's clock, learnt from the ages that its requests claim."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.client_clock import ENOUGH, WINDOW_S, ClientClock, Reading

BELIEVED_S = 2.0

ages = st.floats(-60, 60)


def learnt(samples: list[tuple[float, float]]) -> tuple[ClientClock, Reading]:
    clock, reading = ClientClock(), Reading()
    for now, age_s in samples:
        reading = clock.observe(now, age_s)
    return clock, reading


@pytest.mark.parametrize("behind_s", [2.1, 5.0, 17.0, 60.0])
def test_a_clock_far_behind_is_set_right_from_the_first_request_on(behind_s: float) -> None:
    clock, reading = learnt([(0.0, behind_s + 0.08)])
    assert reading.behind_s(1.0, BELIEVED_S) == pytest.approx(behind_s + 0.08)
    assert clock.observe(1.0, behind_s + 0.03).behind_s(1.0, BELIEVED_S) == pytest.approx(behind_s + 0.03)
    assert reading.behind_s(1.0, BELIEVED_S) == pytest.approx(behind_s + 0.08)  # a reading stays what it was


def test_a_clock_without_a_sample_is_right() -> None:
    assert Reading().behind_s(1.0, BELIEVED_S) == 0.0


def test_a_clock_a_little_behind_is_set_right_after_some_requests() -> None:
    clock, reading = learnt([(n * 0.1, 0.8) for n in range(ENOUGH - 1)])
    assert reading.behind_s(1.0, BELIEVED_S) == 0.0
    reading = clock.observe(1.0, 0.9)
    assert reading.behind_s(1.0, BELIEVED_S) == pytest.approx(0.8)
    assert reading.behind_s(2.0, BELIEVED_S) == 0.0  # there it may be a slow way: the request has time for it


def test_one_fast_request_shows_that_the_others_were_slow() -> None:
    _, reading = learnt([(n * 0.1, 0.9) for n in range(20)] + [(3.0, 0.05)])
    assert reading.behind_s(1.0, BELIEVED_S) == 0.0


def test_a_clock_that_is_corrected_is_believed_again_and_a_new_error_is_learnt_in_time() -> None:
    clock, _ = learnt([(float(n), 5.0) for n in range(20)])
    reading = clock.observe(20.0, 0.04)
    assert reading.behind_s(1.0, BELIEVED_S) == 0.0
    at = 21.0
    while reading.behind_s(1.0, BELIEVED_S) == 0.0:
        assert at < 20.0 + 2 * WINDOW_S + 2
        reading = clock.observe(at, 5.0)
        at += 1.0


def test_a_client_that_comes_back_after_long_is_a_new_one() -> None:
    clock, _ = learnt([(0.0, 0.01)])
    assert clock.observe(10 * WINDOW_S, 5.0).behind_s(1.0, BELIEVED_S) == pytest.approx(5.0)


@given(st.lists(st.tuples(st.floats(0, 2000), ages), min_size=1, max_size=40), st.floats(0.01, 100))
def test_nothing_is_learnt_beyond_what_the_last_request_shows(
    samples: list[tuple[float, float]], limit_s: float
) -> None:
    """Whatever came before, a request is never taken for one from the future, and a right clock stays as it is."""
    _, reading = learnt(sorted(samples))
    behind_s = reading.behind_s(limit_s, BELIEVED_S)
    assert 0.0 <= behind_s <= max(0.0, max(samples)[1])
    if behind_s:
        assert behind_s > min(BELIEVED_S, limit_s / 2)


@given(st.floats(2.01, 60), st.lists(st.floats(0, 0.5), min_size=1, max_size=30))
def test_after_setting_right_only_the_differences_of_the_ways_are_left(behind_s: float, ways: list[float]) -> None:
    clock = ClientClock()
    for n, way_s in enumerate(ways):
        reading = clock.observe(float(n), behind_s + way_s)
        left_s = behind_s + way_s - reading.behind_s(1.0, BELIEVED_S)
        assert -1e-9 <= left_s <= way_s + 1e-9
