"""The formulas of a steady state: filling a batch, what is in time, and the cores of a load."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sponge_core.forecast import Arrival
from sponge_core.latency import LatencyModel, SizeCurve
from sponge_core.planning.steady_state import configurations, cores_per_rate, fill_s, load_cores

MODEL = LatencyModel(gamma=0.04, delta=0.005, epsilon=0.0, eta=0.01)


def test_filling_takes_longer_for_larger_batches_and_lower_rates() -> None:
    assert fill_s(1, 10.0) == 0.0
    assert fill_s(2, 10.0) == pytest.approx(0.4605, rel=0.001)  # -ln(0.01)/10
    assert fill_s(5, 10.0) == pytest.approx(1.0045, rel=0.02)  # Gamma(4, 10), 99 %
    assert fill_s(5, 20.0) == pytest.approx(fill_s(5, 10.0) / 2)
    assert fill_s(2, 0.0) == math.inf


def test_configurations_all_answer_in_time() -> None:
    found = list(configurations(MODEL, [1.0, 2.0, 4.0], range(1, 9), 50.0, 0.6))
    assert found
    assert all(option.latency_s + fill_s(option.batch, 50.0) <= 0.6 for option in found)


def arrivals(count: int, left_s: float, model: int = 0, size: float = 1.0) -> list[Arrival]:
    return [Arrival(n / count, n / count + left_s, model, size) for n in range(count)]


def test_a_load_takes_its_rate_times_the_work_of_a_request_in_the_best_batch() -> None:
    cores = [0.5, 1.0, 1.5, 2.0]
    by_hand = 20.0 * min(MODEL.latency(b, 1) / b for b in (1, 2, 4, 8) if MODEL.latency(b, 1) + fill_s(b, 20.0) <= 0.8)
    assert load_cores(arrivals(20, 0.8), 20.0, [MODEL], cores, 8) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(20.0 * cores_per_rate(MODEL, cores, (1, 2, 4, 8), 20.0, 0.8))


def test_nothing_and_what_no_size_serves_in_time_take_no_cores() -> None:
    assert load_cores([], 0.0, [MODEL], [1.0], 8) == 0.0
    assert load_cores(arrivals(20, 0.01), 20.0, [MODEL], [1.0, 2.0], 8) == 0.0


def test_models_and_sizes_add_up() -> None:
    slow = MODEL.scaled(2.0)
    both = [*arrivals(10, 2.0), *arrivals(10, 2.0, model=1)]
    one, other = (load_cores(arrivals(10, 2.0), 10.0, [model], [1.0], 1) for model in (MODEL, slow))
    assert load_cores(both, 20.0, [MODEL, slow], [1.0], 1) == pytest.approx(one + other)
    sized = replace(MODEL, sizes=SizeCurve((0.0, 1.0, 0.0), (0.0, 1.0, 0.0)))
    small, large = (load_cores(arrivals(10, 2.0, size=s), 10.0, [sized], [1.0], 1) for s in (1.0, 8.0))
    mixed = load_cores([*arrivals(5, 2.0, size=1.0), *arrivals(5, 2.0, size=8.0)], 10.0, [sized], [1.0], 1)
    assert small < large
    assert mixed == pytest.approx((small + large) / 2)
