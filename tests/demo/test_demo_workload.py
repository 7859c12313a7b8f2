"""The workload follows the machine, the simulator finds the fixed size, and other seeds tell the same story."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from sponge_core.latency import LatencyModel
from sponge_demo.backend import DemoError
from sponge_demo.profiles import profile_in
from sponge_demo.scenario import Scenario, uplink_of
from sponge_demo.seeds import seed_table, simulate_seeds
from sponge_demo.virtual import virtual_run
from sponge_demo.workload import Workload, capacity_rps, fit_workload, smallest_fixed, waves_for
from sponge_profiles.profile import load_profile

PROFILE = load_profile("resnet18-epyc").latency_model()
SCENARIO = Scenario(100.0)
TRACE, FROM_S = uplink_of(SCENARIO, os.environ)
UPLINK = TRACE.starting_at(FROM_S)
OTHER_SEEDS = (2, 3, 4, 5, 6)


@pytest.fixture(scope="module")
def workload() -> Workload:
    return fit_workload(SCENARIO, PROFILE, UPLINK)


def test_capacity_counts_the_time_beside_the_batch() -> None:
    model = LatencyModel(gamma=0.02, delta=0.0, epsilon=0.01, eta=0.01)  # a batch of 4 takes 100 ms
    assert capacity_rps(model, 4, request_s=0.0) == pytest.approx(40.0)
    assert capacity_rps(model, 4, request_s=0.025) == pytest.approx(20.0)


@pytest.mark.parametrize("slower", [1.0, 2.0, 3.0])
def test_a_slower_machine_is_sent_proportionally_fewer_requests(slower: float) -> None:
    capacity = capacity_rps(PROFILE.scaled(slower), 4)
    waves = waves_for(capacity, 100.0)
    assert waves.peak_rps == pytest.approx(0.66 * capacity)
    assert waves.peak_rps / waves.low_rps == 8.0
    assert waves.wave_s == 50.0


def test_the_workload_of_a_machine(workload: Workload) -> None:
    assert workload.fixed_milli in SCENARIO.sizes_milli
    assert workload.start_milli in SCENARIO.sizes_milli
    assert workload.start_milli < workload.fixed_milli
    assert len(workload.rates_rps) == 100
    assert max(workload.rates_rps) / min(workload.rates_rps) == pytest.approx(8.0, rel=0.02)
    assert workload.capacity_rps == capacity_rps(PROFILE, 4)
    assert workload == fit_workload(SCENARIO, PROFILE, UPLINK)


def test_a_slow_machine_starts_larger() -> None:
    """Where a request takes 64 ms and batches gain nothing, the smallest size cannot even carry the first seconds."""
    slow = LatencyModel(gamma=0.058, delta=0.002, epsilon=0.0, eta=0.004)
    assert fit_workload(SCENARIO, slow, UPLINK).start_milli == 750


def test_the_search_ends_at_the_first_size_that_falls_short(workload: Workload) -> None:
    good, tried = smallest_fixed(SCENARIO, workload.arrivals, UPLINK, PROFILE)
    assert good == workload.fixed_milli
    assert list(tried) == sorted(tried, reverse=True)
    *enough, short = tried.values()
    assert all(run.in_time_percent >= 99.0 for run in enough)
    assert short.in_time_percent < 99.0


def test_no_fixed_size_may_suffice(workload: Workload) -> None:
    good, tried = smallest_fixed(replace(SCENARIO, max_milli=500), workload.arrivals, UPLINK, PROFILE)
    assert good is None
    assert list(tried) == [500]


def test_a_virtual_run_accounts_for_every_request_and_repeats_itself(workload: Workload) -> None:
    run = virtual_run(SCENARIO, workload.arrivals, UPLINK, PROFILE, start_milli=workload.start_milli)
    assert run.sent == len(workload.arrivals)
    assert run.steps[0] == (0.0, workload.start_milli / 1000)
    assert run.steps[-1][0] == 100.0
    assert run == virtual_run(SCENARIO, workload.arrivals, UPLINK, PROFILE, start_milli=workload.start_milli)
    fixed = virtual_run(SCENARIO, workload.arrivals, UPLINK, PROFILE, fixed_milli=750)
    assert (fixed.sent, fixed.mean_cores) == (run.sent, 0.75)


@pytest.mark.parametrize(("slower", "seeds"), [(1.0, OTHER_SEEDS), (2.0, (2, 3))])
def test_other_seeds_tell_the_same_story(slower: float, seeds: tuple[int, ...]) -> None:
    stories = list(simulate_seeds(SCENARIO, PROFILE.scaled(slower), seeds, os.environ))
    assert [story.seed for story in stories] == list(seeds)
    for story in stories:
        assert story.sponge_percent >= 99.5
        assert story.fixed_percent is not None
        assert story.fixed_percent >= 99.0
        assert story.smaller_percent is not None
        assert story.smaller_percent < 99.0
        assert story.ratio is not None
        assert story.ratio <= 0.65
    rows = seed_table(stories)
    assert [row[0] for row in rows] == ["seed", *map(str, seeds)]
    assert len({len(row) for row in rows}) == 1


JSON_LINE = (
    '{"time":"t","level":"info","logger":"sponge.server","event":"profile.taken","model":"resnet18",'
    '"profile":"resnet18-auto","alone_ms":30.5,"full_ms":100.0,"gamma_ms":18.4,"delta_ms":4.6,"epsilon_ms":6.0,'
    '"eta_ms":1.5e0,"error":0.05,"interference":0.0}'
)
TEXT_LINE = (
    "t info sponge.server profile.taken model=resnet18 profile=resnet18-auto alone_ms=30.5 full_ms=100 gamma_ms=18.4 "
    "delta_ms=4.6 epsilon_ms=6 eta_ms=1.5 error=0.05 interference=0"
)


@pytest.mark.parametrize("line", [JSON_LINE, TEXT_LINE])
def test_the_profile_is_read_from_either_log(line: str) -> None:
    log = f"first\n{line.replace('18.4', '99.9')}\n{line}\nlast"
    model = profile_in(log)
    coefficients = (model.gamma, model.delta, model.epsilon, model.eta)
    assert coefficients == pytest.approx((0.0184, 0.0046, 0.006, 0.0015))
    assert (model.error, model.interference) == (0.05, 0.0)


@pytest.mark.parametrize(
    ("log", "message"),
    [("", "no event profile.taken"), ("a profile.taken gamma_ms=1", "'delta_ms'.*not in")],
)
def test_a_log_without_a_profile_is_an_error(log: str, message: str) -> None:
    with pytest.raises(DemoError, match=message):
        profile_in(log)
