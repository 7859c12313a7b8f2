"""The experiments on requests that differ in size: every rule and both ways of sizing run, on the same requests."""

from __future__ import annotations

from statistics import mean

import pytest
from bench.experiments import size_resizing
from bench.experiments.sizes import BERT, RULES, Case, capacity_rps, run, schedule
from bench.serving.workloads import BERT as BERT_WORKLOAD

from bench import live_sizes


def test_the_model_takes_what_was_measured() -> None:
    measured_ms = {(16, 1): 12.7, (64, 1): 23.9, (256, 1): 81.0, (256, 2): 44.9}
    for (tokens, threads), ms in measured_ms.items():
        assert 1000 * BERT.at(tokens).latency(1, threads) == pytest.approx(ms, rel=0.01)


def test_the_texts_of_the_serving_benchmark_are_these() -> None:
    assert BERT_WORKLOAD.usual_rps == pytest.approx(capacity_rps(), abs=0.1)
    tokens = [BERT_WORKLOAD.shape_of(body)[0] for body in BERT_WORKLOAD.bodies()]
    assert (min(tokens), max(tokens)) == (8, 400)
    assert mean(tokens) == pytest.approx(mean(request.size for request in schedule([0.0] * 20_000, 1)), rel=0.03)


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


def test_hindsight_knows_what_noise_permits() -> None:
    """Exact times are all near a formula that is fitted to them; of times half as long again or not, few are."""
    exact = [
        {"took_ms": 1000 * BERT.at(size).latency(rows, 1), "rows": rows, "size": size, "threads": 1}
        for rows in (1, 2, 3)
        for size in range(10, 400, 13)
    ]
    noisy = [one | {"took_ms": one["took_ms"] * (1.5 if number % 2 else 1.0)} for number, one in enumerate(exact)]
    assert live_sizes.hindsight_near(exact) > 0.98
    assert live_sizes.hindsight_near(noisy) < 0.7


def test_all_servers_get_the_same_part_of_a_slower_machine() -> None:
    """Twice as slow: half the requests, with twice the time each."""
    usual, slow = (live_sizes.schedule(30.0, 200.0, 1, slower) for slower in (1.0, 2.0))
    assert len(slow.shots) == pytest.approx(len(usual.shots) / 2, rel=0.1)
    assert {shot.slo_s for shot in slow.shots} == {0.4, 2.0}
