"""Services that share a node: never more than it has, nobody's requests lost, and what they miss together is least when
planned together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sponge_core.control_api import FrontierPoint
from sponge_core.edf_queue import Request
from sponge_core.planning.joint import Claim
from sponge_profiles.profile import load_profile
from sponge_simulator.fleet import SimulationResult
from sponge_simulator.node import JOINTLY, Node, load_node, run_node
from sponge_simulator.scaling.shared_node import SharedNode
from sponge_simulator.scenario import load_scenario
from sponge_workload.arrivals import poisson_arrivals


def node(cores: float, *rates: float, duration_s: float = 30.0) -> Node:
    base = load_scenario("paper")
    services = [base.model_copy(update={"name": f"s{i}", "rate_rps": rate}) for i, rate in enumerate(rates)]
    return Node(name="n", about="x", cores=cores, duration_s=duration_s, services=tuple(services))


def run(policy: str, on: Node) -> list[SimulationResult]:
    sent = [
        each.requests(poisson_arrivals(each.rate_rps, on.duration_s, seed), None, seed)
        for seed, each in enumerate(on.services)
    ]
    return run_node(policy, on, sent, 1)


def cores_at_once(results: Sequence[SimulationResult]) -> float:
    """The most cores that all of them had at any moment."""
    changes = sorted({moment.at_s for result in results for moment in result.timeline})
    return max(sum([m.cores for m in result.timeline if m.at_s <= at][-1] for result in results) for at in changes)


@pytest.mark.parametrize("policy", [JOINTLY, "sponge", "sponge-paper", "fa2", "themis"])
def test_together_they_never_have_more_than_the_node(policy: str) -> None:
    results = run(policy, node(5.0, 15.0, 20.0, 5.0, duration_s=10.0))
    assert cores_at_once(results) <= 5.0 + 1e-9
    assert all(result.in_time + result.late + result.shed == result.sent > 0 for result in results)


def test_on_a_large_node_planning_jointly_is_planning_apart() -> None:
    wide = node(40.0, 10.0, 20.0, duration_s=15.0)
    jointly, apart = run(JOINTLY, wide), run("sponge", wide)
    assert [result.in_time for result in jointly] == [result.sent for result in apart]
    assert [result.mean_cores for result in jointly] == [result.mean_cores for result in apart]


def test_on_a_node_that_is_too_small_planning_jointly_misses_less() -> None:
    def missed(policy: str) -> int:
        nodes = (node(6.0, 15.0, 15.0, 15.0), node(7.0, 25.0, 10.0, 10.0))
        return sum(result.sent - result.in_time for narrow in nodes for result in run(policy, narrow))

    assert 0 < missed(JOINTLY) < missed("sponge")


def test_the_joint_plan_forgets_what_is_no_longer_claimed() -> None:
    scenario = load_scenario("paper")
    service = scenario.service(load_profile(scenario.profile).latency_model())
    both = SharedNode([service, service], 6.0)
    one, four = (FrontierPoint(cores_milli=m, batch_cap=8, misses=n) for m, n in ((1000, 9), (4000, 0)))
    assert both.fits(0, 4000)
    assert not both.fits(1, 4000)
    assert both.part(1, Claim([one, four], 1000)) == one  # the other has not claimed: it counts with its 4 cores
    assert not both.fits(0, 4000)
    assert both.part(0, Claim([one.model_copy(update={"misses": 3}), four], 4000)).cores_milli == 1000
    assert both.fits(0, 1000)
    assert both.fits(1, 4000)


def test_the_shipped_node_names_its_services_and_changes_what_it_says() -> None:
    shared = load_node("shared")
    assert [each.name for each in shared.services] == ["paper", "mixed", "twitter", "azure-code"]
    assert shared.services[0].rate_rps == 15
    assert sum(each.cores.max for each in shared.services) > shared.cores


def test_requests_are_what_the_schedule_says() -> None:
    sent = [Request(0, 1.0, 2.0, 1.0)]
    (result,) = run_node("static-2", node(4.0, 1.0, duration_s=3.0), [sent], 1)
    assert (result.sent, result.in_time, result.core_seconds) == (1, 1, pytest.approx(6.0))
