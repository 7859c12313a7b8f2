"""Each policy in a made-up state does what its source says, and only that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.cpu_sharing import Running
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.latency import LatencyModel
from sponge_simulator.metrics import ReplicaUse
from sponge_simulator.scaling.arrival_history import ArrivalCounts, WorstNetwork
from sponge_simulator.scaling.fa2 import Fa2, fa2_plan
from sponge_simulator.scaling.harmonybatch import Application, grouped
from sponge_simulator.scaling.has import KalmanRate
from sponge_simulator.scaling.hybrid_deployed import HybridDeployed
from sponge_simulator.scaling.interface import Observation, ScalingPolicy, Service, Size
from sponge_simulator.scaling.registry import POLICIES, UnknownPolicyError, make_policy
from sponge_simulator.scaling.vpa import DecayingHistogram, Vpa

# The paper's YOLOv5s: 137 ms for one item on one core.
MODEL = LatencyModel(gamma=0.1404352, delta=0.0252388, epsilon=-0.0508415, eta=0.0221359)
SERVICE = Service(MODEL, slo_s=1.0, rate=20.0, max_batch=8)


def policy(name: str, service: Service = SERVICE) -> ScalingPolicy:
    return make_policy(name, service).scaling


def seen(
    now: float,
    size: Size,
    *,
    queue: Sequence[Request] = (),
    running: tuple[Running, ...] = (),
    ready: int | None = None,
    uses: Sequence[float] = (),
    unsettled: Sequence[float] = (),
    in_flight: float = 0.0,
) -> Observation:
    """What a policy sees.

    Args:
        uses: of the replicas that were ready before the window of their metrics, which was read just now.
        unsettled: of those that became ready in the middle of it.
    """
    found = [ReplicaUse(cores, now, 15.0, 0.0) for cores in uses]
    found += [ReplicaUse(cores, now, 15.0, now - 7.0) for cores in unsettled]
    serve = size.replicas if ready is None else ready
    return Observation(now, EdfQueue(queue), running, size, serve, sum(uses), in_flight, uses=tuple(found))


def arrive(target: ScalingPolicy, rate: float, seconds: float, start: float = 0.0, network_s: float = 0.0) -> None:
    """Evenly spaced requests."""
    for i in range(round(rate * seconds)):
        at = start + (i + 0.5) / rate
        target.arrived(at, Request(i, at, at + 1.0 - network_s, at - network_s))


@pytest.mark.parametrize(
    ("remaining_ms", "replicas"),
    [(1000, 4), (917, 4), (916, 5), (781, 5), (780, 7), (645, 7), (644, 10), (509, 10), (508, None)],
)
def test_fa2_needs_the_published_number_of_replicas(remaining_ms: int, replicas: int | None) -> None:
    found = fa2_plan(MODEL, 20.0, 1.0, 1.0 - remaining_ms / 1000, 16, 8)
    assert (found[0] if found else None) == replicas


def test_fa2_takes_a_replica_away_only_after_a_wait() -> None:
    fa2 = Fa2(SERVICE)
    many = Size(1.0, 1, 10)
    kept = [fa2.plan(seen(float(second), many)).replicas for second in range(12)]
    assert kept == [10] * 10 + [4, 4]


def test_the_paper_keeps_the_last_plan_where_nothing_is_feasible() -> None:
    paper = policy("sponge-paper")
    paper.arrived(0.5, Request(0, 0.5, 0.5, -0.4))  # 900 ms in the network
    assert paper.plan(seen(1.0, Size(7.0, 3))) == Size(7.0, 3)
    assert paper.plan(seen(2.0, Size(7.0, 3))) != Size(7.0, 3)  # a second later that is forgotten


def test_static_never_changes() -> None:
    assert policy("static-2.5").plan(seen(9.0, Size(1.0, 1), uses=[99.0])) == Size(2.5, 8)


def test_vpa_follows_the_ninetieth_percentile_with_a_margin() -> None:
    vpa = policy("vpa-fast")
    size = Size(16.0, 8)
    for second in range(1, 61):
        size = vpa.plan(seen(15.0 * second, size, uses=[4.0]))
    assert size.cores == 5.0  # 4.0 * 1.15 = 4.6, in the bucket that ends a little above, in whole cores
    assert vpa.plan(seen(15.0 * 61, size, uses=[4.0])) == size


def test_vpa_recommends_what_the_real_one_does_and_may_apply_it_a_round_later() -> None:
    half, fine = Size(0.5, 8), replace(SERVICE, min_cores=0.25, step_cores=0.001)
    for is_behind, first in ((False, 0.296), (True, 0.5)):
        vpa = Vpa(fine, half_life_s=60.0, interval_s=10.0, min_change=0.05, is_behind=is_behind)
        # 0.24 cores are in the bucket that ends at 0.258; 1.8.1 wrote 296m for it.
        cores = [vpa.plan(seen(at, half, uses=[0.24])).cores for at in (10.0, 20.0)]
        assert cores == pytest.approx([first, 0.296])


def test_vpa_counts_each_reading_once() -> None:
    once, again = Vpa(SERVICE, half_life_s=60.0), Vpa(SERVICE, half_life_s=60.0)
    old, new = seen(15.0, Size(16.0, 8), uses=[2.0]), seen(30.0, Size(16.0, 8), uses=[8.0])
    for state in (old, new):
        once.plan(state)
        for _ in range(20):
            again.plan(state)
    late = seen(60.0, Size(16.0, 8))
    assert once.plan(late) == again.plan(late) == Size(10.0, 8)


def test_vpa_leaves_a_size_alone_while_it_is_unsure_and_small_changes_too() -> None:
    def last(vpa: Vpa, minutes: int) -> float:
        for minute in range(1, minutes + 1):
            size = vpa.plan(seen(60.0 * minute, Size(8.0, 8), uses=[2.0]))
        return size.cores

    assert last(Vpa(SERVICE), 2) == 3.0
    assert last(Vpa(SERVICE, confidence_s=86_400.0), 30) == 8.0
    assert last(Vpa(SERVICE, confidence_s=86_400.0), 60 * 24 + 1) == 3.0
    assert last(Vpa(SERVICE, confidence_s=86_400.0, min_change=0.5), 2) == 3.0
    assert last(Vpa(SERVICE, confidence_s=86_400.0, min_change=0.8), 2) == 8.0


def test_a_decaying_histogram_forgets() -> None:
    histogram = DecayingHistogram(half_life_s=10.0)
    for second in range(100):
        histogram.add(float(second), 8.0)
    for second in range(100, 200):
        histogram.add(float(second), 1.0)
    assert histogram.percentile(0.9) == pytest.approx(1.0, rel=0.06)


def test_hpa_keeps_within_its_tolerance_and_scales_down_late() -> None:
    hpa = policy("hpa")
    four = Size(1.0, 8, 4)
    assert hpa.plan(seen(15.0, four, uses=[0.77] * 4)).replicas == 4  # target 0.7
    assert hpa.plan(seen(30.0, four, uses=[1.0] * 4)).replicas == 6
    six = Size(1.0, 8, 6)
    assert hpa.plan(seen(45.0, six, uses=[0.1] * 6)).replicas == 6
    assert hpa.plan(seen(331.0, six, uses=[0.1] * 6)).replicas == 1


@pytest.mark.parametrize(
    ("replicas", "uses", "unsettled", "wanted"),
    [
        (1, [], [], 1),  # nothing is known
        (1, [0.779], [], 1),  # 77 %, within 10 % of 70 %
        (1, [0.78], [], 2),
        (1, [3.0], [], 4),  # at most four, or twice as many
        (3, [3.0] * 3, [], 6),
        (2, [0.9], [1.0], 2),  # the new one counts as idle, and then nothing is to be added
        (2, [2.0], [1.0], 3),
        (3, [0.9], [1.0], 3),  # one of them has no metrics yet
        (2, [0.2], [], 2),  # one without metrics counts as full
        (2, [0.2], [1.0], 2),  # stabilised
    ],
)
def test_hpa_counts_a_replica_once_it_was_ready_for_a_whole_window(
    replicas: int, uses: Sequence[float], unsettled: Sequence[float], wanted: int
) -> None:
    assert policy("hpa").plan(seen(15.0, Size(1.0, 8, replicas), uses=uses, unsettled=unsettled)).replicas == wanted


def test_hpa_takes_no_replica_away_within_five_minutes_of_its_start() -> None:
    hpa, four = policy("hpa"), Size(1.0, 8, 4)
    assert [hpa.plan(seen(15.0 * tick, four, uses=[0.1] * 4)).replicas for tick in range(1, 23)] == [4] * 21 + [1]


def test_kpa_panics_when_six_seconds_ask_for_twice_what_is_there() -> None:
    kpa = policy("kpa")
    for tick in range(1, 31):
        calm = kpa.plan(seen(2.0 * tick, Size(1.0, 8, 1), in_flight=4.0))
    assert calm.replicas == 1
    panic = kpa.plan(seen(62.0, Size(1.0, 8, 1), in_flight=60.0)).replicas
    assert panic >= 2
    assert kpa.plan(seen(64.0, Size(1.0, 8, panic), in_flight=0.0)).replicas == panic  # nothing is taken away meanwhile


@pytest.mark.parametrize("name", ["hpa", "kpa"])
def test_replicas_have_the_size_that_the_service_names(name: str) -> None:
    halves = policy(name, replace(SERVICE, replica_cores=0.5))
    whole, half = policy(name).plan(seen(0.0, Size(1.0, 8))), halves.plan(seen(0.0, Size(0.5, 8)))
    assert (whole.cores, half.cores) == (1.0, 0.5)
    assert whole.replicas < half.replicas <= 2 * whole.replicas
    assert halves.plan(seen(15.0, half, uses=[0.35] * half.replicas, in_flight=5.0)).cores == 0.5


def test_hpa_counts_use_against_the_size_of_a_replica() -> None:
    halves = policy("hpa", replace(SERVICE, replica_cores=0.5))
    assert halves.plan(seen(15.0, Size(0.5, 8, 2), uses=[0.35] * 2)).replicas == 2
    assert halves.plan(seen(30.0, Size(0.5, 8, 2), uses=[0.5] * 2)).replicas == 3


def test_kpa_goes_to_zero_where_a_service_may_be_parked_and_back_with_the_first_request() -> None:
    kpa = policy("kpa", Service(MODEL, slo_s=1.0, rate=20.0, max_batch=8, idle_cores=0.05))
    sizes = [kpa.plan(seen(2.0 * tick, Size(1.0, 8), in_flight=4.0 if tick == 1 else 0.0)) for tick in range(1, 50)]
    assert [size.replicas for size in sizes] == [1] * 45 + [0] * 4
    assert sizes[-1].until_request
    waiting = kpa.plan(seen(99.0, Size(1.0, 8, 0), queue=[Request(0, 99.0, 100.0, 99.0)]))
    assert (waiting.replicas, waiting.until_request) == (1, False)


def test_sponge_parks_what_is_idle_and_grows_with_the_first_request() -> None:
    sponge = policy("sponge", Service(MODEL, slo_s=1.0, rate=20.0, max_batch=8, idle_cores=0.05, idle_after_s=5.0))
    arrive(sponge, 20.0, 1.0)
    busy = seen(1.0, Size(4.0, 8), queue=[Request(0, 1.0, 2.0, 1.0)])
    assert sponge.plan(busy).cores >= 1.0
    sizes = [sponge.plan(seen(1.0 + tick / 10, Size(1.0, 8))) for tick in range(1, 61)]
    assert min(size.cores for size in sizes[:49]) == 1.0
    assert {(size.cores, size.until_request) for size in sizes[49:]} == {(0.05, True)}
    woken = sponge.plan(seen(7.1, Size(0.05, 8), queue=[Request(1, 7.1, 7.6, 6.6)]))
    assert woken.cores >= 1.0
    assert not woken.until_request


def test_themis_grows_in_a_surge_and_goes_sideways_when_it_lasts() -> None:
    themis = policy("themis")
    arrive(themis, 20.0, 5.0)
    one = Size(1.0, 1, 1)
    surge = themis.plan(seen(5.0, one))
    assert surge.replicas == 1
    assert surge.cores > 1
    size, at = surge, 5.0
    for _ in range(60):
        arrive(themis, 20.0, 0.5, at)
        at += 0.5
        size = themis.plan(seen(at, size))
    assert size.cores == 1.0
    assert size.replicas >= math.ceil(20.0 / max(MODEL.throughput(b, 1) for b in range(1, 9)))


def test_inferline_plans_once_and_follows_the_peak() -> None:
    inferline = policy("inferline")
    first = inferline.plan(seen(0.0, Size(16.0, 8)))
    arrive(inferline, 60.0, 31.0)
    later = inferline.plan(seen(31.0, first))
    assert first.replicas == math.ceil(20.0 / (0.85 * MODEL.throughput(1, 1)))
    assert later == Size(first.cores, first.batch_cap, math.ceil(60.0 / (0.85 * MODEL.throughput(1, 1))))


def test_has_starts_vertically_and_adds_replicas_only_beyond_the_largest_size() -> None:
    small = Service(MODEL, slo_s=1.0, rate=20.0, max_cores=2.0)
    has = policy("has", small)
    for second in range(40):
        arrive(has, 40.0, 1.0, float(second))
        size = has.plan(seen(second + 1.0, Size(1.0, 8)))
    assert size.cores == 2.0
    assert size.replicas > 1


def test_a_kalman_filter_smooths() -> None:
    smooth = KalmanRate()
    rates = [smooth.update(100.0) for _ in range(30)]
    assert rates[0] < 30
    assert rates[-1] == pytest.approx(100.0, rel=0.01)
    assert rates == sorted(rates)


def test_autopilot_goes_up_at_once_and_down_slowly() -> None:
    autopilot = policy("autopilot")
    size = Size(2.0, 8)
    for second in range(1, 30):
        size = autopilot.plan(seen(float(second), size, uses=[1.0]))
    for second in range(30, 34):
        size = autopilot.plan(seen(float(second), size, uses=[8.0]))
        assert size.cores == 9.0
    assert autopilot.plan(seen(34.0, size, uses=[1.0])).cores == 9.0
    for second in range(35, 80):
        size = autopilot.plan(seen(float(second), size, uses=[1.0]))
    assert size.cores == 2.0


def test_throttllem_takes_the_lowest_speed_that_keeps_the_queue() -> None:
    throttllem = policy("throttllem")
    queue = [Request(i, 0.0, 0.5, 0.0) for i in range(8)]
    chosen = throttllem.plan(seen(0.0, Size(1.0, 8), queue=queue)).cores
    delay_s = SERVICE.resize_s
    assert delay_s + MODEL.latency(8, int(chosen)) <= 0.5 < delay_s + MODEL.latency(8, int(chosen) - 1)
    assert throttllem.plan(seen(0.0, Size(8.0, 8))).cores == 1.0
    lost = [Request(0, 0.0, 0.001, 0.0)]
    assert throttllem.plan(seen(0.0, Size(8.0, 8), queue=lost)).cores == 1.0


def test_aladdin_packs_more_replicas_for_tighter_deadlines() -> None:
    def replicas(network_s: float) -> int:
        aladdin = policy("aladdin")
        arrive(aladdin, 20.0, 5.0, network_s=network_s)
        return aladdin.plan(seen(5.0, Size(1.0, 1, 1))).replicas

    assert replicas(0.0) <= replicas(0.6)


def test_infless_takes_only_batches_that_fill_in_time() -> None:
    slow = policy("infless")
    arrive(slow, 1.0, 5.0)
    assert slow.plan(seen(5.0, Size(1.0, 1))).batch_cap == 1
    flat = LatencyModel(gamma=0.001, delta=0.001, epsilon=0.0, eta=0.1)  # batches are nearly free
    busy = policy("infless", Service(flat, slo_s=1.0, rate=50.0))
    arrive(busy, 50.0, 5.0)
    assert busy.plan(seen(5.0, Size(1.0, 1))).batch_cap == 8


def test_barista_looks_ahead_of_a_rising_rate() -> None:
    rising, steady = policy("barista"), policy("barista")
    for second in range(30):
        arrive(rising, 5.0 + second, 1.0, float(second))
        arrive(steady, 34.0, 1.0, float(second))
    size = Size(1.0, 1, 1)
    ahead, now = rising.plan(seen(30.0, size)), steady.plan(seen(30.0, size))
    assert ahead.cores * ahead.replicas >= now.cores * now.replicas


def test_asyfunc_keeps_its_base_when_the_burst_has_passed() -> None:
    asyfunc = policy("asyfunc")
    arrive(asyfunc, 20.0, 10.0)
    arrive(asyfunc, 60.0, 2.0, 10.0)
    burst = asyfunc.plan(seen(12.0, Size(1.0, 1))).cores
    arrive(asyfunc, 1.0, 4.0, 12.0)
    after = asyfunc.plan(seen(16.0, Size(1.0, 1))).cores
    assert 1.0 < after < burst


def drive(target: ScalingPolicy, rate: float, seconds: float, size: Size, start: float) -> Size:
    """Evenly spaced requests, a plan every 100 ms, sizes in force and replicas ready at once."""
    for tick in range(round(seconds * 10)):
        at = start + tick * 0.1
        arrive(target, rate, 0.1, at)
        size = target.plan(seen(at + 0.1, size))
    return size


def test_hybrid_adds_a_replica_only_when_the_excess_lasts_and_takes_it_back() -> None:
    hybrid = policy("hybrid", Service(MODEL, slo_s=1.0, rate=10.0, max_cores=4.0, cold_start_s=6.0))
    size = drive(hybrid, 10.0, 10.0, Size(4.0, 8), 0.0)
    assert (size.replicas, size.cores < 4.0) == (1, True)
    size = drive(hybrid, 40.0, 1.0, size, 10.0)  # four times as much, but over before a start pays
    size = drive(hybrid, 10.0, 11.0, size, 11.0)
    assert size.replicas == 1
    size = drive(hybrid, 40.0, 5.0, size, 22.0)
    assert size.replicas == 2
    size = drive(hybrid, 10.0, 12.0, size, 27.0)
    assert size.replicas == 2  # not before some time has passed
    size = drive(hybrid, 10.0, 16.0, size, 39.0)
    assert size.replicas == 1


def test_hybrid_asks_for_as_many_replicas_as_the_rate_takes() -> None:
    hybrid = policy("hybrid", Service(MODEL, slo_s=1.0, rate=10.0, max_cores=2.0))
    assert drive(hybrid, 60.0, 8.0, Size(2.0, 8), 0.0).replicas >= 5  # some 6 requests/s and core


def test_what_servers_have_refused_counts_for_the_number_too() -> None:
    def asked(refused: bool) -> list[int]:
        hybrid, found = policy("hybrid-deployed", Service(MODEL, slo_s=1.0, rate=10.0, max_cores=2.0)), []
        for tick in range(1, 61):
            arrived = [Request(10 * tick + i, tick / 10, tick / 10 + 1.0, tick / 10) for i in range(1 + 2 * refused)]
            for request in arrived:
                hybrid.arrived(tick / 10, request)
            state = replace(seen(tick / 10, Size(2.0, 8)), refused=tuple(arrived[1:]))
            found.append(hybrid.plan(state).replicas)
        return found

    assert asked(refused=False) == [1] * 60
    grown = asked(refused=True)
    assert grown[-1] > 1
    # The number changes once a second.
    assert all(len(set(grown[start : start + 10])) == 1 for start in range(0, 60, 10))


def test_the_shares_of_two_servers_are_more_than_one_queue() -> None:
    def load(ready: int) -> float:
        hybrid = HybridDeployed(Service(MODEL, slo_s=0.8, rate=12.0, max_cores=1.0, overhead_cores=0.02))
        told = []
        hybrid._decided = lambda state, now, elapsed_s, loads, missed_cores: told.append(loads[0]) or ready  # type: ignore[method-assign,func-returns-value]
        for tick in range(1, 201):
            arrive(hybrid, 12.0, 0.1, tick / 10)
            hybrid.plan(seen(tick / 10 + 0.1, Size(1.0, 8, ready)))
        return told[-1]

    assert load(2) > load(1) + 0.02


def test_hybrid_asks_for_nothing_where_no_size_answers_in_time() -> None:
    hybrid = policy("hybrid", Service(MODEL, slo_s=0.03, rate=10.0, max_cores=4.0))
    for tick in range(100):
        at = tick * 0.1
        hybrid.arrived(at, Request(tick, at, at + 0.03, at))
        assert hybrid.plan(seen(at + 0.1, Size(4.0, 8))).replicas == 1


def test_harmonybatch_groups_what_is_alike_and_keeps_a_tight_slo_apart() -> None:
    flat = LatencyModel(gamma=0.001, delta=0.001, epsilon=0.0, eta=0.1)  # batches are nearly free
    alike = [Application(0.9, 5.0), Application(1.0, 5.0)]
    assert [len(group.applications) for group in grouped(alike, flat, 16)] == [2]
    apart = [Application(0.11, 1.0), Application(1.0, 50.0)]
    assert [len(group.applications) for group in grouped(apart, flat, 16)] == [1, 1]


@given(
    st.lists(st.builds(Application, st.floats(0.05, 2.0), st.floats(0.1, 50.0)), min_size=1, max_size=6),
    st.integers(1, 16),
)
def test_harmonybatch_never_pays_more_than_without_groups(applications: list[Application], max_batch: int) -> None:
    together = grouped(applications, MODEL, max_batch)
    alone = [group for one in applications for group in grouped([one], MODEL, max_batch)]
    assert sum(group.busy_cores for group in together) <= sum(group.busy_cores for group in alone) + 1e-6
    assert sorted(a.left_s for group in together for a in group.applications) == sorted(a.left_s for a in applications)
    for group in together:
        assert group.batch == 1 or group.latency_s < group.applications[0].left_s


def test_harmonybatch_plans_a_replica_more_for_each_group() -> None:
    harmony = policy("harmonybatch")
    for i in range(200):
        at = i / 20
        kind, slo_s = ("tight", 0.3) if i % 4 == 0 else ("loose", 1.0)
        harmony.arrived(at, Request(i, at, at + slo_s, at, kind))
    chosen = harmony.plan(seen(10.0, Size(1.0, 1)))
    assert chosen.cores == 1.0
    assert chosen.replicas > 20 * min(MODEL.latency(b, 1) / b for b in range(1, 9))


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_stays_within_the_service(name: str) -> None:
    small = Service(MODEL, slo_s=1.0, rate=20.0, max_batch=4, min_cores=1.0, max_cores=3.0, max_replicas=5)
    chosen = policy(name, small)
    size = Size(3.0, 4)
    for second in range(40):
        arrive(chosen, 300.0 if second % 10 < 3 else 2.0, 1.0, float(second))
        size = chosen.plan(seen(second + 1.0, size, uses=[size.cores] * size.replicas, in_flight=50.0))
        assert 1 <= size.replicas <= 5
        assert 0 < size.cores <= 3.0
        assert 1 <= size.batch_cap <= 4


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    with pytest.raises(UnknownPolicyError, match=r"no policy 'spunge'; there are sponge,"):
        make_policy("spunge", SERVICE)
    with pytest.raises(UnknownPolicyError, match="no dispatch rule 'lifo'"):
        make_policy("vpa@lifo", SERVICE)
    with pytest.raises(UnknownPolicyError, match="more than 0"):
        make_policy("static-0", SERVICE)


def test_counts_are_those_of_whole_seconds() -> None:
    counts = ArrivalCounts(3)
    for at in (0.1, 0.2, 1.5, 2.5, 2.6, 2.7):
        counts.arrived(at)
    assert counts.per_second(2.9) == [2, 1]
    assert (counts.peak(3.0), counts.mean(3.0)) == (3.0, 2.0)
    assert counts.per_second(100.0) == [0, 0, 0]


def test_the_worst_network_is_that_since_the_last_reading() -> None:
    worst = WorstNetwork()
    worst.arrived(1.0, Request(0, 1.0, 2.0, 0.7))
    assert worst.read() == pytest.approx(0.3)
    assert worst.read() == 0.0
