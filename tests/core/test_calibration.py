"""Calibration of a profile by measured batch times, and the detection of drift."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.calibration import HIGHEST, LOWEST, Calibration, Drift
from sponge_core.latency import FLOOR_S, LatencyModel, SizeCurve

MODEL = LatencyModel(gamma=0.04, delta=0.005, epsilon=0.0, eta=0.005)


def test_slow_batches_are_believed_soon_and_fast_ones_late() -> None:
    slow, fast = Calibration(), Calibration()
    for _ in range(5):
        slow.observe(0.1, 0.15)
        fast.observe(0.1, 0.05)
    assert slow.ratio > 1.2
    assert fast.ratio > 0.85


@given(st.lists(st.floats(min_value=1e-6, max_value=1e3), max_size=60))
def test_the_calibration_stays_in_its_bounds(measured: list[float]) -> None:
    calibration = Calibration()
    for seconds in measured:
        calibration.observe(0.1, seconds)
        assert LOWEST <= calibration.ratio <= HIGHEST


@pytest.mark.parametrize("seed", range(5))
def test_noise_around_the_prediction_is_not_believed(seed: int) -> None:
    """Its mean is what the calibration follows; the spread belongs to the profile's error."""
    noise = random.Random(seed)
    calibration = Calibration()
    ratios = []
    for _ in range(300):
        calibration.observe(0.1, 0.1 * noise.lognormvariate(-0.04, 0.28))
        ratios.append(calibration.ratio)
    assert sum(ratios) / len(ratios) == pytest.approx(1.0, abs=0.08)


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(min_value=1e-6, max_value=1e3)), max_size=80))
def test_every_thread_count_has_a_factor_in_the_bounds(batches: list[tuple[int, float]]) -> None:
    calibration = Calibration()
    for threads, seconds in batches:
        calibration.observe(MODEL.latency(1, threads), seconds, threads)
    here = calibration.calibrated(MODEL)
    for threads in range(1, 8):
        assert LOWEST <= calibration.factor(threads) <= HIGHEST
        assert here.latency(3, threads) == pytest.approx(
            max(FLOOR_S, MODEL.latency(3, threads) * calibration.factor(threads))
        )
        assert (
            here.latency(here.largest_batch(1.0, threads, 64) or 1, threads)
            <= max(1.0, here.latency(1, threads)) + 1e-9
        )


def test_a_thread_count_is_corrected_by_its_own_batches() -> None:
    """Two threads gain less here than the profile says; one thread is as predicted, four were never tried."""
    calibration = Calibration()
    for _ in range(60):
        calibration.observe(0.1, 0.1, threads=1)
        calibration.observe(0.06, 0.09, threads=2)
    assert calibration.factor(1) == pytest.approx(1.0, abs=0.05)
    assert calibration.factor(2) == pytest.approx(1.5, abs=0.05)
    assert 1.0 < calibration.factor(4) < 1.5


def test_a_thread_count_not_seen_for_long_learns_that_the_machine_became_slower() -> None:
    calibration = Calibration()
    for _ in range(20):
        calibration.observe(0.06, 0.06, threads=2)
    for _ in range(60):
        calibration.observe(0.1, 0.2, threads=1)
    assert calibration.factor(2) > 1.8


def test_drift_is_told_after_a_while_and_taken_back_when_it_is_over() -> None:
    drift = Drift()
    seen = [(now, drift.observe(float(now), 1.8 if 10 <= now < 50 else 1.0)) for now in range(80)]
    assert [now for now, drifted in seen if drifted] == list(range(40, 60))


def test_a_short_excursion_is_no_drift() -> None:
    drift = Drift()
    assert not any(drift.observe(now * 1.0, 0.5 if now % 20 < 15 else 1.0) for now in range(200))


def test_one_stall_is_no_trend() -> None:
    calibration = Calibration()
    calibration.observe(0.05, 5.0)
    assert calibration.ratio <= 1.2


def test_sizes_that_the_profile_misjudges_are_corrected_apart() -> None:
    profile = LatencyModel(0.001, 0.0, 0.0, 0.001, sizes=SizeCurve((0.0, 1.0, 0.0), (0.0, 0.0, 0.0)))
    calibration = Calibration()
    for _ in range(200):
        for size, slower in ((16.0, 1.0), (256.0, 1.5)):
            predicted_s = profile.at(size).latency(1, 1)
            calibration.observe(predicted_s, slower * predicted_s, 1, size)
    corrected = calibration.calibrated(profile)
    assert corrected.at(256.0).latency(1, 1) == pytest.approx(1.5 * profile.at(256.0).latency(1, 1), rel=0.05)
    assert corrected.at(16.0).latency(1, 1) == pytest.approx(profile.at(16.0).latency(1, 1), rel=0.05)
    assert corrected.at(4000.0).latency(1, 1) >= profile.at(4000.0).latency(1, 1)


def test_what_is_particular_to_large_rows_on_many_threads_counts_once() -> None:
    """Large rows always take two threads and are half as slow again; small ones take one and are as predicted."""
    profile = LatencyModel(0.001, 0.0, 0.0, 0.001, sizes=SizeCurve((0.0, 1.0, 0.0), (0.0, 0.0, 0.0)))
    calibration = Calibration()
    for _ in range(300):
        for size, threads, slower in ((16.0, 1, 1.0), (256.0, 2, 1.5)):
            predicted_s = profile.at(size).latency(1, threads)
            calibration.observe(predicted_s, slower * predicted_s, threads, size)
    corrected = calibration.calibrated(profile)
    assert corrected.at(256.0).latency(1, 2) == pytest.approx(1.5 * profile.at(256.0).latency(1, 2), rel=0.05)
    assert corrected.at(16.0).latency(1, 1) == pytest.approx(profile.at(16.0).latency(1, 1), rel=0.05)


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from([8.0, 60.0, 400.0]), st.floats(0.6, 1.6)), min_size=1, max_size=5
    )
)
def test_batches_that_always_take_as_long_are_predicted_in_the_end(batches: list[tuple[int, float, float]]) -> None:
    """Of any sizes on any threads, where each octave and each thread count has a factor of its own."""
    profile = LatencyModel(0.001, 0.0, 0.0, 0.001, sizes=SizeCurve((0.0, 1.0, 0.0), (0.0, 0.0, 0.0)))
    by_threads = {threads: factor for threads, _, factor in batches}
    by_size = {size: factor**0.2 for _, size, factor in batches}
    calibration = Calibration()
    for _ in range(250):
        for threads, size, _ in batches:
            predicted_s = profile.at(size).latency(1, threads)
            calibration.observe(predicted_s, predicted_s * by_threads[threads] * by_size[size], threads, size)
    corrected = calibration.calibrated(profile)
    for threads, size, _ in batches:
        real = profile.at(size).latency(1, threads) * by_threads[threads] * by_size[size]
        assert corrected.at(size).latency(1, threads) == pytest.approx(real, rel=0.1)
