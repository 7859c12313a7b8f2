"""Replicas in virtual time: the bill, when a size is in force, and that no request is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sponge_core.dispatch.decision import Decision, DispatchState, Launch
from sponge_core.dispatch.policies.moldable import MoldableEdf
from sponge_core.dispatch.registry import POLICIES as DISPATCH
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_simulator.fleet import ClusterModel, SimulationResult, TimelinePoint, simulate
from sponge_simulator.scaling.interface import Observation, Service, Size
from sponge_simulator.scaling.registry import POLICIES, make_policy

MODEL = LatencyModel(gamma=0.04, delta=0.01, epsilon=0.0, eta=0.005)
SERVICE = Service(MODEL, slo_s=0.5, rate=10.0, max_batch=8, max_cores=4.0, max_replicas=4, cold_start_s=2.0)


class Scripted:
    """Asks for the sizes of a script, one a second; keeps the last."""

    interval_s = 1.0
    dispatch = "moldable-edf"

    def __init__(self, *sizes: Size) -> None:
        self._sizes = list(sizes)
        self.seen: list[Observation] = []

    def arrived(self, now: float, request: Request) -> None:
        """Takes no notice."""

    def plan(self, seen: Observation) -> Size:
        self.seen.append(seen)
        return self._sizes.pop(0) if len(self._sizes) > 1 else self._sizes[0]


def requests(*arrivals: float, slo_s: float = 0.5) -> list[Request]:
    return [Request(i, at, at + slo_s, at) for i, at in enumerate(sorted(arrivals))]


def run(sent: Sequence[Request], policy: Scripted, duration_s: float = 4.0, **world: object) -> SimulationResult:
    return simulate(sent, SERVICE, policy, DISPATCH[policy.dispatch].make(), ClusterModel(duration_s, **world))  # type: ignore[arg-type]


def test_one_request_takes_what_the_model_says() -> None:
    result = run(requests(1.0), Scripted(Size(1.0, 8)))
    assert (result.sent, result.in_time, result.late, result.shed) == (1, 1, 0, 0)
    assert result.latencies_s == (pytest.approx(MODEL.latency(1, 1)),)
    assert (result.mean_cores, result.used_core_seconds) == (1.0, pytest.approx(MODEL.latency(1, 1)))


def test_a_larger_size_is_billed_from_when_it_is_in_force() -> None:
    result = run([], Scripted(Size(1.0, 8), Size(3.0, 8)), resize_s=lambda: 0.5)
    assert (result.resizes, result.started) == (1, 0)
    assert result.core_seconds == pytest.approx(1.5 * 1 + 2.5 * 3)
    assert result.timeline == (TimelinePoint(0.0, 1.0, 1), TimelinePoint(1.5, 3.0, 1))


def test_a_smaller_size_waits_for_the_batches_that_run() -> None:
    tight = requests(0.95, slo_s=0.04)  # needs two threads, from 0.95 to 0.985
    long = Scripted(Size(2.0, 8), Size(1.0, 8))
    slow = run(tight, long, resize_s=lambda: 0.1, service_ratio=lambda: 10.0)
    assert slow.core_seconds == pytest.approx(2 * (0.95 + 0.35 + 0.1) + (4 - 1.4), abs=1e-6)


def test_a_replica_serves_after_its_cold_start_and_is_billed_before() -> None:
    policy = Scripted(Size(1.0, 8, 1), Size(1.0, 8, 2))
    result = run([], policy, 6.0)
    assert (result.started, result.core_seconds) == (1, pytest.approx(1 * 1 + 2 * 5))
    assert [seen.ready for seen in policy.seen[:6]] == [1, 1, 1, 2, 2, 2]


def test_a_replica_that_goes_finishes_its_batch() -> None:
    sent = requests(0.9, 0.9, 0.9, slo_s=2.0)
    one_by_one = Scripted(Size(1.0, 1, 3), Size(1.0, 1, 1))
    result = run(sent, one_by_one, service_ratio=lambda: 8.0)
    assert (result.in_time, result.shed) == (3, 0)
    assert result.core_seconds == pytest.approx(
        3 * (0.9 + 8 * MODEL.latency(1, 1)) + (4 - 0.9 - 8 * MODEL.latency(1, 1))
    )


def test_the_first_request_after_a_silence_is_planned_for_at_once() -> None:
    parked = Scripted(Size(0.05, 8, until_request=True), Size(0.05, 8, until_request=True), Size(2.0, 8))
    result = run(requests(1.25), parked, resize_s=lambda: 0.1)
    assert [seen.now for seen in parked.seen[:3]] == [0.0, 1.0, 1.25]
    assert result.timeline == (TimelinePoint(0.0, 0.05, 1), TimelinePoint(1.35, 2.0, 1))
    assert result.in_time == 1


def test_a_service_without_a_replica_answers_after_a_cold_start() -> None:
    gone = Scripted(Size(1.0, 8, 1), Size(1.0, 8, 0, until_request=True), Size(1.0, 8, 1))
    result = run(requests(1.5, slo_s=3.0), gone)
    assert [(moment.at_s, moment.replicas) for moment in result.timeline] == [(0.0, 1), (1.0, 0), (1.5, 1)]
    assert result.latencies_s == (pytest.approx(SERVICE.cold_start_s + MODEL.latency(1, 1)),)


def test_a_replica_knows_how_many_take_from_its_queue() -> None:
    seen: dict[float, int] = {}

    class Watching(MoldableEdf):
        def decide(self, state: DispatchState) -> Decision:
            seen[state.now] = state.limits.servers
            return super().decide(state)

    two_more = Scripted(Size(1.0, 8, 1), Size(1.0, 8, 3), Size(1.0, 8, 3), Size(1.0, 8, 3), Size(1.0, 8, 2))
    simulate(requests(0.5, 2.5, 3.5, 4.5), SERVICE, two_more, Watching(), ClusterModel(6.0))
    assert seen == {0.5: 1, 2.5: 1, 3.5: 3, 4.5: 2}, "requested at 1, serving at 3, one less at 4"


@pytest.mark.parametrize(("replica_cores", "started", "cores"), [(1.0, 2, 5.0), (2.0, 1, 4.0)])
def test_a_node_has_only_so_much(replica_cores: float, started: int, cores: float) -> None:
    service = replace(SERVICE, replica_cores=replica_cores)
    policy = Scripted(Size(2.0, 8, 1), Size(2.0, 8, 4))
    result = simulate([], service, policy, make_policy("static-2", service).dispatch, ClusterModel(8.0, node_cores=5.0))
    assert (result.started, result.timeline[-1].cores) == (started, cores)


def test_what_a_metrics_server_would_report() -> None:
    policy = Scripted(Size(1.0, 1))
    run(requests(0.2, 0.2), policy)
    took = 2 * MODEL.latency(1, 1)  # one after the other
    assert policy.seen[1].used_cores == pytest.approx(took)
    assert policy.seen[1].in_flight == pytest.approx(1.5 * took)


def test_slower_service_than_predicted_is_late_and_counted() -> None:
    assert run(requests(1.0, slo_s=0.06), Scripted(Size(1.0, 8)), service_ratio=lambda: 2.0).late == 1


NAMES = [*POLICIES, "static-2"]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8)
@given(arrivals=st.lists(st.floats(0, 8), max_size=60), slo_s=st.floats(0.02, 1.0))
def test_every_request_has_one_outcome_under_every_policy(name: str, arrivals: list[float], slo_s: float) -> None:
    sent = requests(*arrivals, slo_s=slo_s)
    chosen = make_policy(name, SERVICE)
    result = simulate(sent, SERVICE, chosen.scaling, chosen.dispatch, ClusterModel(8.0))
    assert result.in_time + result.late + result.shed == result.sent == len(sent)
    assert sum(result.in_time_by_class.values()) == result.in_time
    most = SERVICE.max_cores * SERVICE.max_replicas
    assert 0 < result.core_seconds <= most * 8.0 + 1e-6
    assert result.used_core_seconds <= result.core_seconds + 1e-6
    assert all(moment.cores <= most for moment in result.timeline)


@pytest.mark.parametrize("name", ["sponge", "fa2", "themis"])
def test_a_run_repeats_itself(name: str) -> None:
    sent = requests(*(0.03 * i for i in range(100)))

    def once() -> SimulationResult:
        chosen = make_policy(name, SERVICE)
        return simulate(sent, SERVICE, chosen.scaling, chosen.dispatch, ClusterModel(3.0))

    assert once() == once()


def test_with_exact_service_times_ours_meets_a_steady_load_at_few_cores() -> None:
    sent = requests(*(0.05 * i for i in range(600)), slo_s=0.8)
    chosen = make_policy("sponge", SERVICE)
    result = simulate(sent, SERVICE, chosen.scaling, chosen.dispatch, ClusterModel(30.0))
    assert result.violations == 0
    assert result.mean_cores < 1.5  # 20/s at 55 ms are 1.1 cores of work


def test_hybrid_misses_less_than_vertical_alone_and_than_horizontal_alone_on_as_many_cores() -> None:
    # 10 requests/s, from second 10 on 60: more than the 36/s or so of a pod of two cores.
    sent = requests(*(0.1 * i for i in range(100)), *(10 + i / 60 for i in range(1800)), slo_s=0.8)

    def once(name: str, max_cores: float) -> SimulationResult:
        service = replace(SERVICE, slo_s=0.8, max_cores=max_cores, max_replicas=8, cold_start_s=4.0)
        chosen = make_policy(name, service)
        return simulate(sent, service, chosen.scaling, chosen.dispatch, ClusterModel(40.0))

    hybrid, vertical, horizontal = once("hybrid", 2.0), once("sponge", 2.0), once("hybrid", 1.0)
    assert hybrid.started == 1
    assert hybrid.violations < 0.5 * vertical.violations
    assert hybrid.violations < 0.5 * horizontal.violations
    assert hybrid.core_seconds < 1.05 * horizontal.core_seconds


def test_what_is_used_beside_the_batches_comes_out_of_the_quota() -> None:
    beside = replace(SERVICE, overhead_cores=0.25)
    (sent,) = requests(1.0, slo_s=2.0)
    rule = DISPATCH["moldable-edf"].make()
    evenly = simulate([sent], beside, Scripted(Size(0.5, 8)), rule, ClusterModel(4.0))
    assert evenly.latencies_s == (pytest.approx(MODEL.latency(1, 1) / (0.5 - 0.25)),)
    by_periods = simulate([sent], beside, Scripted(Size(0.5, 8)), rule, ClusterModel(4.0, by_periods=True))
    # 50 ms of CPU in each 100 ms, for the batch and a quarter of a thread beside it: 40 ms of its 55, then the rest.
    assert by_periods.latencies_s == (pytest.approx(0.1 + 0.055 - 0.04),)


def test_servers_predict_by_what_they_have_learnt() -> None:
    learnt: list[tuple[int, float]] = []

    def learn(launch: Launch, took_s: float) -> LatencyModel:
        learnt.append((len(launch.requests), took_s))
        return MODEL.scaled(4.0)

    policy = Scripted(Size(1.0, 8))
    # The second one cannot be met by a model that says 220 ms.
    result = run(requests(0.5, 1.5, slo_s=0.2), policy, takes_s=lambda _: 0.15, learn=learn)
    assert (result.in_time, result.shed, learnt) == (1, 1, [(1, 0.15)])
    assert [seen.model for seen in policy.seen[:3]] == [None, MODEL.scaled(4.0), MODEL.scaled(4.0)]


def test_a_deployment_sees_uploads_and_looks_again_at_once_when_a_request_is_in_danger() -> None:
    # A burst after a rest: found by what waits, not by the next poll a second later.
    sent = [Request(i, 5.2 + i * 1e-6, 5.9, 5.2) for i in range(12)]
    service = replace(SERVICE, min_cores=0.5, step_cores=0.5)
    chosen = make_policy("sponge-deployed", service)
    result = simulate(sent, service, chosen.scaling, chosen.dispatch, ClusterModel(8.0))
    grown = next(moment.at_s for moment in result.timeline if moment.at_s > 5)
    assert grown < 5.2 + 0.1
    assert result.timeline[-1].cores == 0.5


def test_only_what_was_sent_counts_as_an_upload() -> None:
    policy = Scripted(Size(1.0, 8))
    sent = [Request(0, 1.5, 3.0, 0.9), Request(1, 2.5, 3.0, 1.9)]
    simulate(sent, SERVICE, policy, DISPATCH[policy.dispatch].make(), ClusterModel(4.0))
    assert [[upload.at for upload in seen.uploads] for seen in policy.seen] == [[], [1.5], [2.5], [], []]


def test_a_server_tells_an_uploads_end_by_what_it_had_read_when_it_last_ran() -> None:
    policy = Scripted(Size(0.25, 8))
    asked: list[tuple[float, float]] = []

    def left_s(request: Request, received_at: float, now: float) -> float:
        asked.append((received_at, now))
        return 0.5

    # The first one runs from 0.95 on: 25 of its 55 ms, then nothing until 1.0 (and again 25 ms).
    sent = [Request(0, 0.95, 3.0, 0.95), Request(1, 1.5, 3.0, 0.9)]
    rule = DISPATCH[policy.dispatch].make()
    simulate(sent, SERVICE, policy, rule, ClusterModel(2.0, by_periods=True, upload_left_s=left_s))
    assert [upload.at for upload in policy.seen[1].uploads] == [1.5]
    assert asked == [(pytest.approx(0.975), 1.0)]


def test_a_new_replica_has_its_startup_size_until_it_serves_as_far_as_the_node_has_room() -> None:
    service = replace(SERVICE, min_cores=0.5, max_cores=1.0, step_cores=0.5, startup_cores=2.0)
    policy = Scripted(Size(0.5, 8), Size(0.5, 8, 3))
    world = ClusterModel(6.0, resize_s=lambda: 0.25, node_cores=3.75)
    steps = [(at.at_s, at.cores) for at in simulate([], service, policy, DISPATCH["fifo"].make(), world).timeline]
    # They start at the largest size; the first of them grows to two cores, the second by what is left. From 3.0 on they
    # serve; nothing happens then before the plan at 4.0.
    assert steps == [(0.0, 0.5), (1.0, 2.5), (1.25, 3.75), (4.25, 1.5)]
