"""The experiment on cheaper variants: every rule runs, on the same requests, and ours keeps what it promises."""

from __future__ import annotations

import pytest
from bench.experiments.variants import PLACES, RULES, TOP_1, VARIANTS, Case, run, schedule, simulated, summarise


def test_all_rules_get_the_same_requests() -> None:
    kinds = PLACES["fixed"].kinds
    once, again = (schedule(kinds, (0.1, 0.2, 0.3), seed=1) for _ in range(2))
    assert once == again
    assert {request.floor for request in schedule(kinds, range(100), seed=1)} == {float("inf"), 0.69, 0.6}


def test_the_variants_are_each_less_accurate_and_faster() -> None:
    assert list(TOP_1) == sorted(TOP_1, reverse=True)
    assert [variant.latency.latency(8, 1) for variant in VARIANTS] == sorted(
        (variant.latency.latency(8, 1) for variant in VARIANTS), reverse=True
    )


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_serves_a_light_load(rule: str) -> None:
    found = run(Case("fixed", rule, load=0.3, seed=1, duration_s=3.0))
    assert found.in_time > 0.97
    assert min(TOP_1) <= found.accuracy <= max(TOP_1)
    assert summarise([found]) == [found]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("load", [0.8, 1.6])
def test_no_fewer_are_in_time_than_without_variants(place: str, load: float) -> None:
    ours, without = (simulated(Case(place, rule, load, 1, 4.0)) for rule in ("replay", "none"))
    assert ours.in_time >= without.in_time
    assert ours.in_time_by_variant.get(0, 0) >= ours.in_time_by_class["gold"]  # which has no floor


def test_variants_do_not_save_cores_that_can_be_had() -> None:
    ours, without = (simulated(Case("resized", rule, 1.3, 1, 6.0)) for rule in ("replay", "none"))
    assert ours.in_time_by_variant == {0: ours.in_time}
    assert ours.mean_cores == pytest.approx(without.mean_cores)
    full_node = simulated(Case("full node", "replay", 1.3, 1, 6.0))
    assert full_node.in_time_by_variant[1] > 0
