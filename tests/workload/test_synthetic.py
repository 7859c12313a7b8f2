"""Synthetic traces have the statistics of the recordings, and a seed repeats."""

from __future__ import annotations

import numpy as np
import pytest

from sponge_workload.arrivals import poisson_arrivals
from sponge_workload.synthetic import synthetic_4g


def test_synthetic_4g_has_the_statistics_of_the_recording() -> None:
    traces = [np.array(synthetic_4g(600, seed).bytes_per_s) / 125_000 for seed in range(20)]
    for mbit in traces:
        assert np.percentile(mbit, [0, 5, 50, 95, 100]) == pytest.approx([3.46, 10.6, 26.8, 46.4, 56.0], rel=0.01)
        assert mbit.mean() == pytest.approx(27.6, rel=0.01)
    correlation = np.mean([np.corrcoef(mbit[1:], mbit[:-1])[0, 1] for mbit in traces])
    assert correlation == pytest.approx(0.75, abs=0.02)


def test_a_seed_draws_the_same_again_and_another_does_not() -> None:
    assert synthetic_4g(60, 1) == synthetic_4g(60, 1)
    assert synthetic_4g(60, 1).bytes_per_s != synthetic_4g(60, 2).bytes_per_s
    assert poisson_arrivals(20, 10, 1) == poisson_arrivals(20, 10, 1) != poisson_arrivals(20, 10, 2)
