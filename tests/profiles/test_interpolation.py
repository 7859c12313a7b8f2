"""The table form: its predictions on, between and beyond its cells, and when it is chosen."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sponge_core.calibration import Calibration
from sponge_core.cpu_sharing import CpuLoad
from sponge_core.dispatch.batch_sizing import cheapest_batch
from sponge_core.latency import LatencyModel
from sponge_profiles.fitting import Point, best_within_threads, fit
from sponge_profiles.interpolation import with_table
from sponge_profiles.validation import cross_validate

FORMULA = LatencyModel(gamma=0.020, delta=0.004, epsilon=0.006, eta=0.002)
BATCHES, THREADS = (1, 2, 4, 8), (1, 2, 4)
GRID = [(b, k) for b in BATCHES for k in THREADS]

noise = st.lists(st.floats(0.5, 2.0), min_size=len(GRID), max_size=len(GRID))


def points(factors: list[float]) -> list[Point]:
    return [Point(b, k, f * FORMULA.latency(b, k)) for (b, k), f in zip(GRID, factors, strict=True)]


def step(batch: int, threads: int) -> float:
    """No formula of this kind has it: batches are padded to the next power of two."""
    padded = 1 << (batch - 1).bit_length()
    return 0.010 + 0.010 * math.pow(padded, 1.5) / math.sqrt(threads)


def test_a_table_meets_what_it_was_made_of_and_joins_it_by_lines() -> None:
    table = with_table(FORMULA, [Point(b, k, step(b, k)) for b, k in GRID])
    for b, k in GRID:
        assert table.latency(b, k) == pytest.approx(step(b, k))
    assert table.latency(6, 2) == pytest.approx((step(4, 2) + step(8, 2)) / 2)
    third = step(4, 2) + (step(4, 4) - step(4, 2)) * (1 / 2 - 1 / 3) / (1 / 2 - 1 / 4)
    assert table.latency(4, 3) == pytest.approx(third)


def test_outside_of_its_cells_the_formula_goes_on_from_the_edge() -> None:
    table = with_table(FORMULA, points([2.0] * len(GRID)))
    for b, k in ((16, 1), (16, 8), (1, 8), (5, 5)):
        assert table.latency(b, k) == pytest.approx(2 * FORMULA.latency(b, k))


def test_a_cell_that_was_not_measured_lies_between_its_neighbours() -> None:
    given_points = [Point(b, k, 2 * FORMULA.latency(b, k)) for b, k in GRID if (b, k) != (2, 2)]
    assert with_table(FORMULA, given_points).latency(2, 2) == pytest.approx(2 * FORMULA.latency(2, 2))


@settings(max_examples=60)
@given(noise)
def test_whatever_was_measured_the_table_is_physical(factors: list[float]) -> None:
    table = with_table(FORMULA, points(factors))
    plain = LatencyModel(table.gamma, table.delta, table.epsilon, table.eta)
    for b in range(1, 11):
        for k in range(1, 6):
            assert table.latency(b, k) <= table.latency(b + 1, k) + 1e-12
            assert table.latency(b, k + 1) <= table.latency(b, k) + 1e-12
            assert plain.latency(b, k) <= table.latency(b, k) + 1e-12, "the formula is a lower bound"


@settings(max_examples=60)
@given(noise, st.floats(0, 0.6), st.integers(1, 12))
def test_the_largest_batch_is_the_inverse_of_latency(factors: list[float], room: float, limit: int) -> None:
    table = with_table(FORMULA, points(factors))
    for k in (1, 2, 3, 6):
        fits = [b for b in range(1, limit + 1) if table.latency(b, k) <= room]
        assert table.largest_batch(room, k, limit) == max(fits, default=0)


@settings(max_examples=100)
@given(noise, st.floats(0.01, 1.0), st.integers(1, 12), st.integers(1, 6), st.floats(0.5, 2.0))
def test_the_dispatch_rule_finds_on_a_table_what_looking_at_every_thread_count_finds(
    factors: list[float], slack: float, most: int, free: int, ratio: float
) -> None:
    table = with_table(FORMULA, points(factors)).scaled(ratio)
    costs = []
    for k in range(1, free + 1):
        largest = table.largest_batch(slack, k, most)
        costs += [k * table.latency(b, k) / b for b in {1, largest} if largest]
    found = cheapest_batch(table, slack, most, free, CpuLoad(0.0, float(free), []))
    assert (found is None) == (not costs)
    if found is not None:
        assert found.cost == pytest.approx(min(costs))


def test_the_online_correction_scales_a_table_as_it_does_a_formula() -> None:
    table, correction = with_table(FORMULA, [Point(b, k, step(b, k)) for b, k in GRID]), Calibration()
    for _ in range(200):
        for k, factor in ((1, 1.2), (2, 1.5)):
            correction.observe(table.latency(4, k), factor * table.latency(4, k), k)
    corrected = correction.calibrated(table)
    for b in (1, 3, 8):
        assert corrected.latency(b, 1) == pytest.approx(1.2 * table.latency(b, 1), rel=0.01)
        assert corrected.latency(b, 2) == pytest.approx(1.5 * table.latency(b, 2), rel=0.01)


def test_the_formula_is_chosen_where_it_is_true() -> None:
    wobble = [1.0 + 0.02 * (-1) ** i for i in range(len(GRID))]
    checked = cross_validate(points(wobble))
    assert checked is not None
    assert checked.better == "formula"
    assert checked.formula.mean_percent < 5


def test_the_table_is_chosen_where_no_formula_fits() -> None:
    checked = cross_validate([Point(b, k, 0.01 + 0.002 * b * b / k**0.5) for b in (1, 2, 4, 6, 8) for k in (1, 2, 4)])
    assert checked is not None
    assert checked.better == "table"
    assert checked.table.mean_percent < 0.8 * checked.formula.mean_percent


def test_every_cell_was_left_out_once_and_predicted_from_the_others() -> None:
    measured = points([1.0 + 0.1 * (i % 3) for i in range(len(GRID))])
    checked = cross_validate(measured)
    assert checked is not None
    wanted = best_within_threads(measured)
    for index, point in enumerate(wanted):
        rest = wanted[:index] + wanted[index + 1 :]
        predicted = fit(rest).model.latency(point.batch, point.threads)
        assert checked.formula.errors[index] == pytest.approx(point.latency_s / predicted - 1)


def test_too_few_cells_are_not_judged() -> None:
    assert cross_validate([Point(b, 1, 0.01 * b) for b in (1, 2, 4)]) is None
