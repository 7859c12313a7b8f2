"""Pods with queues of their own behind fronts: every request ends once, whatever fails, and knowing the pods helps."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sponge_core.dispatch.policies.moldable import MoldableEdf
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_core.routing.registry import RULES, RuleName
from sponge_simulator.fronts.run import FrontResult, simulate_fronts
from sponge_simulator.fronts.settings import FAULTS, Fault, FaultKind, Fronts, Network, Site
from sponge_simulator.scaling.interface import Service
from sponge_workload.arrivals import poisson_arrivals

MODEL = LatencyModel(0.012, 0.003, 0.0, 0.01, max_batch=8)
SERVICE = Service(MODEL, 1.0, 50.0, 8, 0.5, 0.5, 0.5, 3)
NETWORK = Network(hop_s=0.001, report_every_s=0.05, report_delay_s=0.002)
SITE = Site(SERVICE, 3, MoldableEdf, lambda launch: launch.work_s, NETWORK)
KUBE_PROXY = Fronts(None, retries=0)
BEST = Fronts("best-fit", count=2)


def schedule(rate: float, duration_s: float, slo_s: float = 1.0, seed: int = 1, upload_s: float = 0.0) -> list[Request]:
    """Requests in the order of arrival, each of which takes up to `upload_s` to arrive."""
    times, draw = poisson_arrivals(rate, duration_s, seed), random.Random(seed)
    rows = sorted((at + upload_s * draw.random(), at) for at in times)
    return [Request(number, arrival, at + slo_s, at, "only") for number, (arrival, at) in enumerate(rows)]


def accounted(found: FrontResult, requests: Sequence[Request]) -> None:
    assert found.sent == len(requests)
    assert found.in_time + found.late + found.shed + found.failed == found.sent
    assert len(found.latencies_s) == found.in_time + found.late


fronts = st.builds(
    Fronts,
    rule=st.none() | st.sampled_from(sorted(RULES)),
    count=st.integers(1, 3),
    retries=st.integers(0, 2),
    hand_over=st.booleans(),
    steal=st.booleans(),
    second_try=st.booleans(),
    at_header=st.booleans(),
)
faults = st.lists(
    st.builds(
        Fault,
        kind=st.sampled_from(sorted(FAULTS)),
        from_s=st.just(0.5),
        until_s=st.just(1.5),
        noticed_s=st.floats(0.1, 2),
    ),
    max_size=1,
).map(tuple)


@settings(max_examples=40, deadline=None)
@given(fronts, faults, st.floats(10, 120), st.integers(1, 1000), st.booleans())
def test_every_request_ends_exactly_once(
    setting: Fronts, faults: tuple[Fault, ...], rate: float, seed: int, by_periods: bool
) -> None:
    requests = schedule(rate, 2.0, seed=seed, upload_s=0.3)
    site = replace(SITE, faults=faults, by_periods=by_periods)
    accounted(simulate_fronts(requests, site, setting, seed), requests)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_serves_a_light_load(rule: RuleName) -> None:
    requests = schedule(15.0, 5.0)
    found = simulate_fronts(requests, SITE, replace(BEST, rule=rule))
    assert found.missed == 0


def test_equal_seeds_give_equal_runs() -> None:
    requests = schedule(80.0, 5.0)
    once, again = (simulate_fronts(requests, SITE, KUBE_PROXY, seed=3) for _ in range(2))
    assert once == again


def test_best_fit_misses_far_less_than_kube_proxy() -> None:
    requests = schedule(80.0, 30.0, slo_s=0.5)
    best, blind = (simulate_fronts(requests, SITE, setting) for setting in (BEST, KUBE_PROXY))
    assert 5 * best.missed <= blind.missed
    assert blind.missed > 20


@pytest.mark.parametrize("kind", FAULTS)
def test_best_fit_is_no_worse_than_kube_proxy_whatever_fails(kind: FaultKind) -> None:
    site = replace(SITE, faults=(Fault(kind, 3.0, 9.0),))
    requests = schedule(45.0, 12.0)
    best, blind = (simulate_fronts(requests, site, setting) for setting in (BEST, replace(KUBE_PROXY, count=2)))
    accounted(best, requests)
    assert best.missed <= blind.missed
    assert blind.missed > 0


def test_reports_five_seconds_old_do_no_harm() -> None:
    site = replace(SITE, network=NETWORK._replace(report_delay_s=5.0))
    requests = schedule(80.0, 20.0, slo_s=0.5)
    best, blind = (simulate_fronts(requests, site, setting) for setting in (BEST, KUBE_PROXY))
    assert best.missed <= blind.missed


@pytest.mark.parametrize("helped_by", [replace(KUBE_PROXY, hand_over=True), replace(KUBE_PROXY, steal=True)])
def test_requests_move_between_pods_and_fewer_are_missed(helped_by: Fronts) -> None:
    draw = random.Random(1)
    requests = [
        Request(number, at, at + draw.choice((0.3, 1.0)), at)
        for number, at in enumerate(poisson_arrivals(80.0, 20.0, 1))
    ]
    alone, helped = (simulate_fronts(requests, SITE, setting) for setting in (KUBE_PROXY, helped_by))
    assert alone.moved == 0
    assert helped.moved > 0
    assert helped.missed < alone.missed
    accounted(helped, requests)
