"""Autothrottle's Captain step by step, and the counters of the kernel that it reads."""

from __future__ import annotations

import pytest

from sponge_core.dispatch.policies.plain import Plain
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_simulator.fleet import ClusterModel, simulate
from sponge_simulator.scaling.captain import Captain, QuotaControl
from sponge_simulator.scaling.interface import Observation, Service, Size
from sponge_simulator.scaling.registry import UnknownPolicyError, make_policy
from sponge_simulator.throttling import ThrottledSet

# 100 ms for each request, alone on a thread.
MODEL = LatencyModel(gamma=0.0, delta=0.1, epsilon=0.0, eta=0.0)
SERVICE = Service(MODEL, slo_s=1.0, rate=20.0, max_batch=1, max_cores=4.0)


def after(control: QuotaControl, periods: int, throttled: float, used_cores: float) -> float:
    for _ in range(periods):
        control.period(throttled, used_cores)
    return control.quota


def test_the_quota_grows_by_what_the_ratio_exceeds_three_targets() -> None:
    control = QuotaControl(target=0.1, quota=4.0, least=1.0, most=16.0)
    assert after(control, 9, 1.0, 4.0) == 4.0  # it decides once a second
    assert after(control, 1, 1.0, 4.0) == pytest.approx(4.0 * (1 + 1.0 - 0.3))
    assert control.margin == pytest.approx(3 + 1.0 - 0.1)
    assert after(control, 30, 1.0, 4.0) == 16.0


def test_the_quota_falls_to_the_highest_use_and_a_margin_at_most_by_half() -> None:
    control = QuotaControl(target=0.1, quota=10.0, least=1.0, most=16.0)
    # 10 samples of 2 and 40 of 0: 2 + 2.9 * 0.808 = 4.34, below half.
    assert after(control, 10, 0.0, 2.0) == 5.0
    # 20 of 2 and 30 of 0: 2 + 2.8 * 0.990 = 4.77, above 0.9 * 5.
    assert after(control, 10, 0.0, 2.0) == 5.0
    # 40 of 2 and 10 of 0: 2 + 2.6 * 0.808 = 4.10, at last.
    assert after(control, 20, 0.0, 2.0) == pytest.approx(4.101, abs=1e-3)
    # 50 of 2: no deviation is left, 2 is below half.
    assert after(control, 10, 0.0, 2.0) == pytest.approx(4.101 / 2, abs=1e-3)


def test_a_shrink_that_throttles_is_taken_back_and_as_much_is_given_on_top() -> None:
    control = QuotaControl(target=0.1, quota=10.0, least=1.0, most=16.0)
    after(control, 10, 0.0, 2.0)
    assert after(control, 3, 1.0, 5.0) == 5.0  # 0.3 in ten periods is not more than three targets
    assert after(control, 1, 1.0, 5.0) == 15.0
    assert control.margin == pytest.approx(2.9 + 0.4 - 0.1)
    assert after(control, 5, 1.0, 5.0) == 15.0  # only once


def test_what_throttles_a_second_later_is_not_taken_back() -> None:
    control = QuotaControl(target=0.1, quota=10.0, least=1.0, most=16.0)
    after(control, 20, 0.0, 2.0)
    assert after(control, 9, 1.0, 5.0) == 5.0


def test_the_margin_is_learned_and_never_negative() -> None:
    control = QuotaControl(target=0.5, quota=10.0, least=1.0, most=16.0)
    after(control, 10, 0.0, 2.0)
    assert control.margin == 2.5
    after(control, 90, 0.0, 2.0)
    assert control.margin == 0.0


def test_the_kernel_counts_use_and_throttled_periods() -> None:
    running = ThrottledSet(1.0)
    running.start(0, 2, 0.2, 9.0, 0.0)  # uses up each period in 50 ms
    assert running.stat(0.04) == pytest.approx((0.08, 0))
    assert running.stat(0.3) == pytest.approx((0.3, 3))
    enough = ThrottledSet(2.0)
    enough.start(0, 2, 0.2, 9.0, 0.0)
    assert enough.stat(0.2) == pytest.approx((0.4, 0))


class Recorder:
    """One core for a server of four threads."""

    interval_s = 0.1
    dispatch = "fifo"

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []

    def arrived(self, now: float, request: Request) -> None:
        """Ignores requests."""

    def plan(self, state: Observation) -> Size:
        self.seen.append((round(state.used_cores, 3), state.throttled_periods))
        return Size(1.0, 1, threads=4)


def test_a_server_with_threads_of_its_own_is_throttled() -> None:
    recorder = Recorder()
    requests = [Request(i, 0.0, 9.0) for i in range(4)]
    result = simulate(requests, SERVICE, recorder, Plain(), ClusterModel(0.5))
    # Four threads use up each period in 25 ms, and end together in the fourth.
    assert result.latencies_s == pytest.approx([0.325] * 4)
    assert recorder.seen[1:5] == [(1.0, 1), (1.0, 1), (1.0, 1), (1.0, 0)]


def test_captain_finds_the_size_of_a_steady_load() -> None:
    requests = [Request(i, at := i / 20, at + 1.0, at) for i in range(600)]  # two cores' work, never more at once
    result = simulate(requests, SERVICE, Captain(SERVICE), Plain(), ClusterModel(30.0))
    assert result.violations == 0
    assert [point.cores for point in result.timeline] == [4.0, 3.0]  # a little above 2, rounded up


def test_a_target_is_part_of_the_name() -> None:
    assert isinstance(make_policy("captain-0.02", SERVICE).scaling, Captain)
    with pytest.raises(UnknownPolicyError, match="from 0 to 1"):
        make_policy("captain-1.5", SERVICE)
