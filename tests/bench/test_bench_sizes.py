"""The experiments on requests that differ in size: every rule and both ways of sizing run, on the same requests."""

from __future__ import annotations

import pytest
from bench.experiments import size_resizing
from bench.experiments.sizes import BERT, RULES, Case, capacity_rps, run, schedule


def test_the_model_takes_what_was_measured() -> None:
    measured_ms = {(16, 1): 12.7, (64, 1): 23.9, (256, 1): 81.0, (256, 2): 44.9}
    for (tokens, threads), ms in measured_ms.items():
        assert 1000 * BERT.at(tokens).latency(1, threads) == pytest.approx(ms, rel=0.01)


def test_all_rules_get_the_same_requests() -> None:
    once, again = (schedule((0.1, 0.2, 0.3), seed=1) for _ in range(2))
    assert once == again
    assert all(8 <= request.size <= 400 for request in once)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_serves_a_light_load(rule: str) -> None:
    found = run(Case(rule, rate=10.0, seed=1, duration_s=3.0))
    assert 0.9 <= min(found.tight, found.loose) <= 1.0
    assert found.goodput_rps <= 2 * found.rate < capacity_rps()


@pytest.mark.parametrize("cores", [0.0, 2.0])
def test_live_and_fixed_sizes_run(cores: float) -> None:
    found = size_resizing.run(size_resizing.Case("poisson", cores, 10.0, 1, 3.0))
    assert found.attainment > 0.9
    assert 0.25 <= found.cores <= 4.0
    assert cores == 0.0 or found.cores == cores
