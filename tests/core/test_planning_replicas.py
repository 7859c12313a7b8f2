"""How many pods: a further one only for a lasting need, one less only late, always within the range."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.planning.replicas import (
    TO_SPARE,
    ReplicaDecider,
    ReplicaDecision,
    ReplicaLimits,
    ReplicaState,
    Trend,
)

LIMITS = ReplicaLimits(least=1, most=4, min_cores=0.5, max_cores=2.0, cold_start_s=10.0)


def load(asked: int, cores: float, **more: object) -> ReplicaState:
    return replace(ReplicaState(asked, cores, cores), **more)  # type: ignore[arg-type]


class Service:
    """Pods that serve at once when they are asked for; a decision a second."""

    def __init__(self, limits: ReplicaLimits = LIMITS, asked: int = 1) -> None:
        self.decider, self.limits, self.asked, self.now = ReplicaDecider(), limits, asked, 0.0
        self.changes: list[tuple[float, ReplicaDecision]] = []

    def until_change(self, cores: float, **more: object) -> str:
        """Goes on under a load until the number changes, for a minute at most; returns the reason."""
        before = len(self.changes)
        while len(self.changes) == before:
            assert self.now < 60.0
            self.run(1, cores, **more)
        return self.changes[-1][1].reason

    def run(self, seconds: int, cores: float, **more: object) -> list[str]:
        """Goes on for so long under a load; returns the reasons of the changes."""
        before = len(self.changes)
        for _ in range(seconds):
            self.now += 1.0
            decision = self.decider.decide(self.now, 1.0, load(self.asked, cores, **more), self.limits)
            if decision.replicas != self.asked:
                self.changes.append((self.now, decision))
            self.last, self.asked = decision, decision.replicas
        return [decision.reason for _, decision in self.changes[before:]]


def test_a_surge_that_ends_before_a_start_pays_starts_no_pod() -> None:
    service = Service()
    assert service.run(4, 2.8) == []  # 4 s of one core too much; a start costs 5 core-seconds
    assert service.run(60, 0.5) == []


def test_a_lasting_excess_starts_as_many_pods_as_it_takes_and_a_larger_one_sooner() -> None:
    small, large = Service(), Service()
    assert small.run(60, 2.1) == ["load"]
    assert large.run(60, 6.5) == ["load"]
    assert (small.asked, large.asked) == (2, 4)
    assert large.changes[0][0] < small.changes[0][0]


def test_a_pod_goes_when_the_others_have_room_for_twice_a_cold_start() -> None:
    service = Service(asked=3)
    assert service.run(20, 2.0) == []
    assert service.run(2, 2.0) == ["spare"]
    assert service.run(60, 2.0) == [], "one pod would be full"
    assert service.run(10, 0.5) == []
    assert service.run(1, 1.9) == []
    assert service.run(15, 0.5) == [], "the load between them counts"


def test_a_pod_is_asked_for_before_the_load_needs_it_where_the_load_rises() -> None:
    service = Service()
    assert service.run(2, 1.0, ahead_cores=1.9) == []
    assert service.run(1, 1.0, ahead_cores=1.0) == []
    assert service.run(3, 1.0, ahead_cores=1.9) == ["ahead"]
    assert Service(asked=2).run(60, 1.0, ahead_cores=1.6) == [], "nor is one spared that will be needed"


def test_what_a_full_node_lacks_starts_a_pod_elsewhere() -> None:
    service = Service()
    assert service.until_change(1.2, short_cores=(1.0,)) == "ceiling"
    assert service.asked == 2
    # The other pod can serve the whole load, so the one on the full node goes.
    assert service.until_change(1.2, short_cores=(1.0, 0.0)) == "spare"
    assert service.run(600, 1.2) == []


def test_a_pod_that_is_lost_counts_with_nothing() -> None:
    service = Service(asked=2)
    assert service.until_change(2.5, short_cores=(0.0, 2.0)) == "ceiling"
    assert service.asked == 3
    assert service.until_change(2.5, short_cores=(0.0, 2.0, 0.0)) == "spare", "the lost one"


def test_a_pod_that_no_node_takes_is_asked_for_once_and_given_up_when_the_load_falls() -> None:
    service = Service()
    service.run(60, 2.5)
    assert service.run(600, 2.5, starting=1) == []
    assert service.asked == 2
    assert service.run(60, 0.5, starting=1) == ["spare"]


def test_requests_missed_at_the_largest_size_start_a_pod_which_is_not_taken_back_at_once() -> None:
    service = Service()
    assert service.until_change(1.1, missed_cores=0.3) == "missed"
    assert service.run(300, 1.1) == [], "without the memory of it, 1.1 of 2 cores would be room to spare"
    assert service.run(1800, 1.1) == ["spare"], "it is forgotten after a while"


def test_misses_while_a_pod_starts_ask_for_no_other() -> None:
    service = Service(asked=2)
    assert service.run(600, 1.1, missed_cores=0.5, starting=1) == []
    assert service.run(5, 1.1, missed_cores=0.5) == [], "nor does what the pods before it had queued"
    assert "missed" in service.run(10, 1.1, missed_cores=0.5)


def test_work_that_is_missed_starts_a_pod_sooner_than_work_that_waits() -> None:
    waiting, missed = Service(), Service()
    waiting.until_change(2.1)
    missed.until_change(2.1, missed_cores=0.3)
    assert missed.now <= 2.0 < waiting.now


def test_no_pod_goes_between_two_bursts_however_short_a_cold_start_is() -> None:
    service = Service(replace(LIMITS, cold_start_s=2.0), asked=2)
    for _ in range(20):
        assert service.run(10, 0.5) + service.run(1, 2.5) == []
    assert service.run(30, 0.5) == ["spare"]


def test_a_load_beyond_the_most_pods_is_said() -> None:
    service = Service(asked=4)
    service.run(60, 9.0)
    assert service.last == ReplicaDecision(4, "at-max")
    service.run(1, 5.0)
    assert service.last == ReplicaDecision(4, "hold")


@pytest.mark.parametrize(("asked", "number"), [(0, 2), (1, 2), (9, 5)])
def test_a_number_out_of_range_comes_into_it_at_once(asked: int, number: int) -> None:
    limits = replace(LIMITS, least=2, most=5)
    assert ReplicaDecider().decide(0.0, 1.0, load(asked, 0.1), limits) == ReplicaDecision(number, "range")


LOADS = st.lists(
    st.tuples(
        st.integers(1, 60),  # seconds
        st.floats(0, 20),
        st.floats(0, 20),
        st.floats(0, 2),
        st.lists(st.floats(0, 2), max_size=2),
    ),
    min_size=1,
    max_size=8,
)


@given(LOADS, st.integers(1, 4), st.integers(0, 4))
def test_the_number_stays_in_range_and_no_pod_goes_that_the_load_needs(
    loads: list[tuple[int, float, float, float, list[float]]], least: int, more: int
) -> None:
    limits = replace(LIMITS, least=least, most=least + more)
    decider, asked, now = ReplicaDecider(), least, 0.0
    for seconds, cores, ahead, missed, short in loads:
        for _ in range(seconds):
            now += 1.0
            lacks = tuple(short[:asked])
            state = load(asked, cores, ahead_cores=ahead, missed_cores=missed, short_cores=lacks)
            decision = decider.decide(now, 1.0, state, limits)
            assert limits.least <= decision.replicas <= limits.most
            if decision.replicas < asked:
                left = (asked - 1) * limits.max_cores - (sum(lacks) - max(lacks, default=0.0))
                assert decision.replicas == asked - 1
                assert max(cores, ahead) <= TO_SPARE * left
                assert not missed
            asked = decision.replicas


@given(st.floats(0, 12), st.floats(0, 12))
def test_a_larger_load_never_gets_fewer_pods(one: float, other: float) -> None:
    less, more = Service(), Service()
    less.run(120, min(one, other))
    more.run(120, max(one, other))
    assert less.asked <= more.asked


def test_a_trend_is_what_is_sure_of_a_rise() -> None:
    steady, rising, noisy = Trend(), Trend(), Trend()
    for second in range(40):
        steady.observe(float(second), 3.0)
        rising.observe(float(second), 1.0 + 0.1 * second)
        noisy.observe(float(second), 3.0 + (second % 2))
    assert steady.rise_in(10.0) == noisy.rise_in(10.0) == 0.0
    assert rising.rise_in(10.0) == pytest.approx(1.0)
    step = Trend()
    for second in range(60):
        step.observe(float(second), 1.0 if second < 45 else 3.0)
        assert step.rise_in(10.0) == 0.0, "however long it is over"
    for second in range(40, 80):
        rising.observe(float(second), 5.0 - 0.1 * (second - 40))
    assert rising.rise_in(10.0) == 0.0


def test_a_few_loads_make_no_trend() -> None:
    trend = Trend()
    for tenth in range(30):
        trend.observe(tenth / 10, float(tenth))
    assert trend.rise_in(10.0) == 0.0
