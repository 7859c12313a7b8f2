"""The latency model: formula, floor, inverse."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sponge_core.latency import FLOOR_S, LatencyModel

coefficients = st.floats(0, 0.2)
models = st.builds(LatencyModel, gamma=coefficients, delta=coefficients, epsilon=coefficients, eta=coefficients)


def test_the_formula_on_a_hand_computed_point() -> None:
    model = LatencyModel(gamma=0.1, delta=0.02, epsilon=0.04, eta=0.01)
    assert model.latency(4, 2) == pytest.approx(0.1 * 4 / 2 + 0.02 * 4 + 0.04 / 2 + 0.01)
    assert model.throughput(4, 2) == pytest.approx(4 / 0.31)


def test_a_negative_fit_never_predicts_less_than_the_floor() -> None:
    assert LatencyModel(0.0, 0.0, -1.0, 0.0).latency(1, 1) == FLOOR_S


def test_scaled_keeps_the_shape() -> None:
    model = LatencyModel(0.1, 0.02, 0.04, 0.01, interference=0.1, error=0.2)
    slower = model.scaled(1.5)
    assert slower.latency(3, 2) == pytest.approx(1.5 * model.latency(3, 2))
    assert (slower.interference, slower.error) == (0.1, 0.2)


@given(models, st.integers(1, 32), st.integers(1, 16))
def test_more_threads_never_slow_a_batch_and_more_items_never_speed_it(model: LatencyModel, b: int, k: int) -> None:
    assert model.latency(b, k + 1) <= model.latency(b, k) + 1e-12
    assert model.latency(b + 1, k) >= model.latency(b, k) - 1e-12


@given(models, st.floats(0, 3), st.integers(1, 16), st.integers(1, 64))
@example(LatencyModel(0.0, 0.0, 0.54, 0.92), 0.54 + 0.92, 1, 8)  # rounding leaves less than nothing for items
def test_the_largest_batch_is_the_inverse_of_latency(model: LatencyModel, room: float, k: int, limit: int) -> None:
    batch = model.largest_batch(room, k, limit)
    assert 0 <= batch <= limit
    if batch:
        assert model.latency(batch, k) <= room + 1e-9
    if batch < limit:
        assert model.latency(batch + 1, k) > room - 1e-9
