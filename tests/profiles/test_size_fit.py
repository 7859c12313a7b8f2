"""The fit of batch times over a grid of row sizes."""

from __future__ import annotations

import random
from itertools import product

import pytest

from sponge_core.errors import ProfileError
from sponge_core.latency import LatencyModel, SizeCurve
from sponge_profiles.size_fit import SizedTime, fit_sizes

# The measured BERT: 12.7 ms at 16 tokens, 23.9 at 64, 81 at 256 on one thread; 44.9 at 256 on two.
BERT = LatencyModel(1.0, 0.0, 0.44e-3, 8.8e-3, sizes=SizeCurve((0.0, 0.212e-3, 0.267e-6), (0.0, 0.0, 0.0)))


def times(model: LatencyModel, noise: float = 0.0, threads: tuple[int, ...] = (1, 2)) -> list[SizedTime]:
    found, draw = [], random.Random(1)
    for batch, count, size in product((1, 4, 8), threads, (8.0, 21.0, 57.0, 150.0, 400.0)):
        off = 1.0 + draw.uniform(-noise, noise)
        found.append(SizedTime(batch, count, model.at(size).latency(batch, count) * off, size))
    return found


def test_exact_times_give_the_model_back() -> None:
    found = fit_sizes(times(BERT), 100.0, "padded")
    for batch, count, size in product((1, 3, 8), (1, 2), (16.0, 64.0, 256.0)):
        assert found.model.at(size).latency(batch, count) == pytest.approx(
            BERT.at(size).latency(batch, count), rel=0.02
        )
    assert found.model.at(100.0).gamma == pytest.approx(found.model.gamma)
    assert max(map(abs, found.errors)) < 0.02


def test_noise_shows_in_the_error_and_unseen_sizes_are_close() -> None:
    found = fit_sizes(times(BERT, noise=0.05), 100.0, "padded")
    assert 0.01 <= found.model.error <= 0.08
    assert sorted(map(abs, found.unseen))[int(0.8 * len(found.unseen))] < 0.2


def test_with_one_thread_count_the_parallel_share_is_assumed() -> None:
    found = fit_sizes(times(BERT, threads=(1,)), 100.0, "padded").model
    assert found.at(100.0).latency(1, 1) == pytest.approx(BERT.at(100.0).latency(1, 1), rel=0.03)
    assert found.at(100.0).latency(1, 2) < found.at(100.0).latency(1, 1)


def test_no_coefficient_is_negative() -> None:
    flat = [SizedTime(1, 1, 0.01, size) for size in (1.0, 10.0, 100.0)]
    found = fit_sizes(flat, 10.0, "alike").model
    assert found.sizes is not None
    assert min(*found.sizes.parallel, *found.sizes.serial, found.gamma, found.delta) >= 0
    assert found.at(1.0).latency(1, 1) == pytest.approx(0.01, rel=0.02)


def test_too_few_sizes_are_refused() -> None:
    with pytest.raises(ProfileError, match="measure at least 3"):
        fit_sizes([SizedTime(1, 1, 0.01, size) for size in (1.0, 2.0)], 1.0, "padded")
