"""The experiment on fronts: every way runs, on the same requests, and ours keeps what it promises."""

from __future__ import annotations

import pytest
from bench.experiments.front import (
    ARRIVALS,
    FRESH,
    IN_TROUBLE,
    KUBE_PROXY,
    MIXES,
    ONE_POD,
    SHARED,
    WAYS,
    Case,
    cases,
    run,
    schedule,
    shown,
    summarise,
)

from sponge_core.routing.registry import DEFAULT, RULES


def test_every_way_gets_the_same_requests() -> None:
    one, other = (schedule(Case("wide", "poisson", way, FRESH, 1, 5.0)) for way in (KUBE_PROXY, DEFAULT))
    assert one == other
    assert {request.slo_class for request in one} == {"tight", "loose"}


def test_every_rule_and_bound_is_compared_in_every_mix() -> None:
    calm = {(case.mix, case.arrivals, case.way) for case in cases(1, 5.0) if case.trouble == FRESH}
    ways = {ONE_POD, SHARED, *WAYS}
    assert set(RULES) < ways
    assert calm == {(mix, arrivals, way) for mix in MIXES for arrivals in ARRIVALS for way in ways}
    assert {case.way for case in cases(1, 5.0) if case.trouble != FRESH} == set(IN_TROUBLE)


@pytest.mark.parametrize("way", [ONE_POD, SHARED, KUBE_PROXY, DEFAULT])
def test_a_way_runs_and_is_summed_up(way: str) -> None:
    given = [Case("wide", "poisson", way, FRESH, seed, 3.0) for seed in (1, 2)]
    runs = [run(case) for case in given]
    (row,) = summarise(given, runs)
    assert row.sent == sum(len(schedule(case)) for case in given)
    assert row.missed <= 0.1 * row.sent
    assert 0 < row.p50_ms < row.p99_ms
    assert shown("title", [row], [("wide", "poisson")]).row_count == 1
