"""Whole runs of the dispatch policies in virtual time: overload, classes, and the bound."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations

import pytest
from bench.dispatch_ablation import Case, capacity_rps, load_model, run
from hypothesis import given, settings
from hypothesis import strategies as st

from sponge_core.dispatch.registry import DEFAULT, POLICIES
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_simulator.ablation import VARIANTS
from sponge_simulator.fleet import ClusterModel, SimulationResult, simulate
from sponge_simulator.scaling.interface import Service
from sponge_simulator.scaling.static import Static

ALL = POLICIES | VARIANTS
MODEL = LatencyModel(gamma=0.04, delta=0.01, epsilon=0.02, eta=0.005)


def run_fixed(
    requests: Sequence[Request], policy: str, cores: float, max_batch: int, duration_s: float
) -> SimulationResult:
    service = Service(MODEL, 1.0, 1.0, max_batch, max_cores=cores)
    return simulate(requests, service, Static(service, cores), ALL[policy].make(), ClusterModel(duration_s))


@pytest.mark.parametrize("load", [1.3, 2.0])
@pytest.mark.parametrize("cores", [2, 4])
def test_overload_does_not_collapse_and_the_tight_come_first(load: float, cores: int) -> None:
    found = run(Case(DEFAULT, "resnet18", cores, load, seed=7, duration_s=10.0))
    capacity = capacity_rps(load_model("resnet18"), cores)
    assert found.goodput_rps >= 0.94 * capacity
    assert found.tight >= (0.85 if load < 2.0 else 0.75)
    # The loose get what is left: at twice the capacity the tight half alone fills the cores.
    assert found.loose > (0.4 if load < 2.0 else 0.05)


@pytest.mark.parametrize("profile", ["resnet18", "resnet18-paper", "resnet18-epyc"])
@pytest.mark.parametrize("load", [1.3, 2.0])
def test_what_is_given_up_gains_more_than_it_loses(profile: str, load: float) -> None:
    case = Case(DEFAULT, profile, 2, load, seed=3, duration_s=8.0)
    assert run(case).goodput_rps > run(case._replace(policy="no sacrifice")).goodput_rps


@pytest.mark.parametrize("policy", ALL)
@settings(max_examples=15)
@given(
    rows=st.lists(st.tuples(st.floats(0, 2), st.sampled_from([0.1, 0.3, 1.0])), max_size=40), cores=st.integers(1, 3)
)
def test_every_request_has_one_outcome(policy: str, rows: list[tuple[float, float]], cores: int) -> None:
    sent = [Request(i, at, at + slo, at) for i, (at, slo) in enumerate(sorted(rows))]
    found = run_fixed(sent, policy, float(cores), 4, 3.0)
    assert found.in_time + found.late + found.shed == found.sent == len(sent)


def clairvoyant(requests: Sequence[Request], cap: int) -> int:
    """The most in-time answers of any schedule on one core, by trying all: which batch next, started when it is
    complete."""

    @cache
    def best(free_at: float, left: frozenset[int]) -> int:
        most = 0
        for size in range(1, min(cap, len(left)) + 1):
            for batch in combinations(sorted(left), size):
                end = max(free_at, *(requests[i].arrival for i in batch)) + MODEL.latency(size, 1)
                met = sum(end <= requests[i].deadline + 1e-9 for i in batch)
                if met == size:  # one that is late anyway may as well be left out
                    most = max(most, met + best(end, left - set(batch)))
        return most

    return best(0.0, frozenset(range(len(requests))))


@pytest.mark.parametrize("policy", ALL)
@settings(max_examples=25)
@given(rows=st.lists(st.tuples(st.floats(0, 0.4), st.sampled_from([0.08, 0.15, 0.3])), min_size=1, max_size=5))
def test_no_schedule_beats_a_clairvoyant_one(policy: str, rows: list[tuple[float, float]]) -> None:
    sent = [Request(i, at, at + slo, at) for i, (at, slo) in enumerate(sorted(rows))]
    found = run_fixed(sent, policy, 1.0, 3, 2.0)
    assert found.in_time <= clairvoyant(sent, 3)
