"""The scheduler's state, in virtual time without any loop."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.dispatch.registry import POLICIES
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_server.engine.scheduler import Scheduler

MODEL = LatencyModel(gamma=0.04, delta=0.005, epsilon=0.0, eta=0.005)


def scheduler(cores: float = 1.0) -> Scheduler:
    return Scheduler([MODEL], cores, 8, cores, 0.0)


def add(state: Scheduler, number: int, now: float, slo_s: float = 10.0) -> None:
    state.add(Request(number, now, now + slo_s))


def test_a_batch_as_predicted_changes_no_factor() -> None:
    state = scheduler()
    add(state, 1, 0.0)
    (batch,) = state.turn(0.0, 1).batches
    assert state.finish(batch, batch.work_s, batch.work_s) == pytest.approx(1.0)
    assert state.ratios[0] == pytest.approx(1.0)


def test_calibration_changes_the_next_prediction() -> None:
    state = scheduler()
    for number in range(20):
        add(state, number, float(number))
        (batch,) = state.turn(float(number), 1).batches
        state.finish(batch, number + 2 * MODEL.latency(1, 1), 0.0)
    assert state.models[0].latency(1, 1) == pytest.approx(2 * MODEL.latency(1, 1), rel=0.1)


def test_sharing_the_quota_is_not_mistaken_for_a_slow_model() -> None:
    """Two threads on one and a half cores run at three quarters of full speed; the fluid account knows that."""
    state = Scheduler([MODEL], 1.5, 8, 1.5, 0.0)
    add(state, 1, 0.0)
    (first,) = state.turn(0.0, 2).batches
    add(state, 2, 0.0)
    (second,) = state.turn(0.0, 1).batches
    assert state.threads_running == 2
    alone = MODEL.latency(1, 1)
    for batch in (first, second):
        # The kernel may throttle a short batch not at all or for half of its time; CPU time tells the truth.
        assert state.finish(batch, alone * 2.5, alone) == pytest.approx(1.0)
    assert state.ratios[0] == pytest.approx(1.0)


def test_delays_by_the_server_itself_are_expected_of_the_next_batch() -> None:
    """Two threads on two cores, of which the server takes a part: each waits a quarter of its time for a CPU."""
    state = Scheduler([MODEL], 2.0, 8, 2.0, 0.0)
    state.set_self_usage(0.1, 0.0)
    alone = MODEL.latency(1, 1)
    for number in range(0, 80, 2):
        now = float(number)
        add(state, number, now)
        (first,) = state.turn(now, 2).batches
        add(state, number + 1, now)
        (second,) = state.turn(now, 1).batches
        for batch in (first, second):
            state.finish(batch, now + alone * 1.25, alone)
    assert state.ratios[0] == pytest.approx(1.25 * 1.9 / 2, rel=0.05)


def test_an_abandoned_batch_changes_no_factor_and_frees_its_threads() -> None:
    state = scheduler()
    add(state, 1, 0.0)
    (batch,) = state.turn(0.0, 1).batches
    state.abandon(batch, 60.0)
    assert (state.ratios[0], state.threads_running, state.batches_running) == (1.0, 0, 0)


def test_withdrawing_twice_is_reported() -> None:
    state = scheduler()
    add(state, 1, 0.0)
    assert state.withdraw(1)
    assert not state.withdraw(1)


def test_without_lanes_nothing_starts_and_overdue_requests_expire() -> None:
    state = scheduler()
    add(state, 1, 0.0, slo_s=0.2)
    add(state, 2, 0.0, slo_s=0.5)
    turn = state.turn(0.3, 0)
    assert [shed.request.id for shed in turn.sheds] == [1]
    assert (turn.batches, turn.wake_at) == ((), 0.5)


def test_a_larger_plan_admits_what_the_present_size_cannot_meet() -> None:
    state = scheduler(1.0)
    state.set_max_cores(4.0)
    add(state, 1, 0.0, slo_s=0.03)
    turn = state.turn(0.0, 1)
    assert (turn.batches, turn.sheds) == ((), ())
    state.set_cores(4.0, 0.001)
    (batch,) = state.turn(0.001, 1).batches
    assert batch.threads > 1


def test_another_policy_runs_on_the_same_state_and_learns_from_them() -> None:
    state = Scheduler([MODEL], 1.0, 8, 1.0, 0.0, POLICIES["clipper"].make())
    sizes = []
    for number in range(8):
        for place in range(4):
            add(state, 4 * number + place, float(number))
        (batch,) = state.turn(float(number), 1).batches
        sizes.append(len(batch.requests))
        state.finish(batch, number + 0.5, batch.work_s)
    assert sizes[:4] == [1, 2, 3, 4]


@given(
    st.lists(
        st.tuples(st.floats(0.0, 0.05), st.floats(0.01, 1.0), st.sampled_from(["add", "end", "cores"])), max_size=40
    ),
    st.sampled_from([0.5, 1.0, 2.0, 3.5]),
)
def test_threads_never_exceed_the_budget_of_the_cores_in_force(
    events: list[tuple[float, float, str]], cores: float
) -> None:
    state = Scheduler([MODEL], cores, 4, 4.0, 0.0)
    now = 0.0
    running: list[Any] = []
    for number, (gap, slo_s, kind) in enumerate(events):
        now += gap
        if kind == "add":
            add(state, number, now, slo_s)
        elif kind == "end" and running:
            batch = running.pop(0)
            state.finish(batch, now, 0.01)
        elif kind == "cores":
            state.set_cores([0.5, 1.0, 2.0, 3.5][number % 4], now)
        before = state.threads_running
        started = state.turn(now, 4 - len(running)).batches
        running += started
        assert len(running) <= 4
        assert state.threads_running == sum(batch.threads for batch in running)
        assert state.threads_running <= max(before, state.budget)


def test_rows_with_earlier_deadlines_count_as_ahead() -> None:
    state = scheduler(cores=2.0)
    assert state.ahead(5.0) == (0, 0.0)
    alone = state.least_s()
    for number in range(20):
        add(state, number, 0.0, 1.0)
    row_s = MODEL.latency(8, 1) / 8
    rows, seconds = state.ahead(5.0)
    assert rows == 20
    assert seconds == pytest.approx(20 * row_s / 2)
    assert state.ahead(0.5) == (0, 0.0)  # goes before all of them
    assert state.least_s() == alone  # what waits will be gone before a slow body is here
