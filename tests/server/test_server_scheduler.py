"""The scheduler's books and the online correction, in virtual time without any loop."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.dispatch.registry import POLICIES
from sponge_core.edf_queue import Request
from sponge_core.latency import FLOOR_S, LatencyModel
from sponge_server.engine.calibration import HIGHEST, LOWEST, Correction, Drift
from sponge_server.engine.scheduler import Scheduler

MODEL = LatencyModel(gamma=0.04, delta=0.005, epsilon=0.0, eta=0.005)


def scheduler(cores: float = 1.0) -> Scheduler:
    return Scheduler([MODEL], cores, 8, cores, 0.0)


def add(books: Scheduler, number: int, now: float, slo_s: float = 10.0) -> None:
    books.add(Request(number, now, now + slo_s))


def test_a_batch_that_took_what_was_predicted_teaches_nothing() -> None:
    books = scheduler()
    add(books, 1, 0.0)
    (batch,) = books.turn(0.0, 1).batches
    assert books.finish(batch.key, batch.work_s, batch.work_s) == pytest.approx(1.0)
    assert books.ratios[0] == pytest.approx(1.0)


def test_slow_batches_are_believed_soon_and_fast_ones_late() -> None:
    slow, fast = Correction(), Correction()
    for _ in range(5):
        slow.observe(0.1, 0.15)
        fast.observe(0.1, 0.05)
    assert slow.ratio > 1.2
    assert fast.ratio > 0.85


@given(st.lists(st.floats(min_value=1e-6, max_value=1e3), max_size=60))
def test_the_correction_stays_in_its_bounds(measured: list[float]) -> None:
    correction = Correction()
    for seconds in measured:
        correction.observe(0.1, seconds)
        assert LOWEST <= correction.ratio <= HIGHEST


@pytest.mark.parametrize("seed", range(5))
def test_noise_around_the_prediction_is_not_believed(seed: int) -> None:
    """Its mean is what the correction follows; the spread belongs to the profile's error."""
    noise = random.Random(seed)
    correction = Correction()
    ratios = []
    for _ in range(300):
        correction.observe(0.1, 0.1 * noise.lognormvariate(-0.04, 0.28))
        ratios.append(correction.ratio)
    assert sum(ratios) / len(ratios) == pytest.approx(1.0, abs=0.08)


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(min_value=1e-6, max_value=1e3)), max_size=80))
def test_every_thread_count_has_a_factor_in_the_bounds(batches: list[tuple[int, float]]) -> None:
    correction = Correction()
    for threads, seconds in batches:
        correction.observe(MODEL.latency(1, threads), seconds, threads)
    here = correction.corrected(MODEL)
    for threads in range(1, 8):
        assert LOWEST <= correction.factor(threads) <= HIGHEST
        assert here.latency(3, threads) == pytest.approx(
            max(FLOOR_S, MODEL.latency(3, threads) * correction.factor(threads))
        )
        assert (
            here.latency(here.largest_batch(1.0, threads, 64) or 1, threads)
            <= max(1.0, here.latency(1, threads)) + 1e-9
        )


def test_a_thread_count_is_corrected_by_its_own_batches() -> None:
    """Two threads gain less here than the profile says; one thread is as predicted, four were never tried."""
    correction = Correction()
    for _ in range(60):
        correction.observe(0.1, 0.1, threads=1)
        correction.observe(0.06, 0.09, threads=2)
    assert correction.factor(1) == pytest.approx(1.0, abs=0.05)
    assert correction.factor(2) == pytest.approx(1.5, abs=0.05)
    assert 1.0 < correction.factor(4) < 1.5


def test_a_thread_count_not_seen_for_long_learns_that_the_machine_became_slower() -> None:
    correction = Correction()
    for _ in range(20):
        correction.observe(0.06, 0.06, threads=2)
    for _ in range(60):
        correction.observe(0.1, 0.2, threads=1)
    assert correction.factor(2) > 1.8


def test_drift_is_told_after_a_while_and_taken_back_when_it_is_over() -> None:
    drift = Drift()
    seen = [(now, drift.observe(float(now), 1.8 if 10 <= now < 50 else 1.0)) for now in range(80)]
    assert [now for now, drifted in seen if drifted] == list(range(40, 60))


def test_a_short_excursion_is_no_drift() -> None:
    drift = Drift()
    assert not any(drift.observe(now * 1.0, 0.5 if now % 20 < 15 else 1.0) for now in range(200))


def test_one_stall_is_no_trend() -> None:
    correction = Correction()
    correction.observe(0.05, 5.0)
    assert correction.ratio <= 1.2


def test_a_correction_changes_what_is_predicted_next() -> None:
    books = scheduler()
    for number in range(20):
        add(books, number, float(number))
        (batch,) = books.turn(float(number), 1).batches
        books.finish(batch.key, number + 2 * MODEL.latency(1, 1), 0.0)
    assert books.models[0].latency(1, 1) == pytest.approx(2 * MODEL.latency(1, 1), rel=0.1)


def test_sharing_the_quota_is_not_mistaken_for_a_slow_model() -> None:
    """Two threads on one and a half cores run at three quarters of full speed; the fluid account knows that."""
    books = Scheduler([MODEL], 1.5, 8, 1.5, 0.0)
    add(books, 1, 0.0)
    (first,) = books.turn(0.0, 2).batches
    add(books, 2, 0.0)
    (second,) = books.turn(0.0, 1).batches
    assert books.threads_running == 2
    alone = MODEL.latency(1, 1)
    for batch in (first, second):
        # The kernel may throttle a short batch not at all or for half of its time; CPU time tells the truth.
        assert books.finish(batch.key, alone * 2.5, alone) == pytest.approx(1.0)
    assert books.ratios[0] == pytest.approx(1.0)


def test_an_abandoned_batch_teaches_nothing_and_frees_its_threads() -> None:
    books = scheduler()
    add(books, 1, 0.0)
    (batch,) = books.turn(0.0, 1).batches
    books.abandon(batch.key, 60.0)
    assert (books.ratios[0], books.threads_running, books.batches_running) == (1.0, 0, 0)


def test_withdrawing_twice_is_told_apart() -> None:
    books = scheduler()
    add(books, 1, 0.0)
    assert books.withdraw(1)
    assert not books.withdraw(1)


def test_without_lanes_nothing_starts_and_overdue_requests_are_let_go() -> None:
    books = scheduler()
    add(books, 1, 0.0, slo_s=0.2)
    add(books, 2, 0.0, slo_s=0.5)
    turn = books.turn(0.3, 0)
    assert [shed.request.id for shed in turn.sheds] == [1]
    assert (turn.batches, turn.wake_at) == ((), 0.5)


def test_a_larger_plan_admits_what_the_present_size_cannot_meet() -> None:
    books = scheduler(1.0)
    books.set_max_cores(4.0)
    add(books, 1, 0.0, slo_s=0.03)
    turn = books.turn(0.0, 1)
    assert (turn.batches, turn.sheds) == ((), ())
    books.set_cores(4.0, 0.001)
    (batch,) = books.turn(0.001, 1).batches
    assert batch.threads > 1


def test_another_policy_runs_on_the_same_books_and_learns_from_them() -> None:
    books = Scheduler([MODEL], 1.0, 8, 1.0, 0.0, POLICIES["clipper"].make())
    sizes = []
    for number in range(8):
        for place in range(4):
            add(books, 4 * number + place, float(number))
        (batch,) = books.turn(float(number), 1).batches
        sizes.append(len(batch.requests))
        books.finish(batch.key, number + 0.5, batch.work_s)
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
    books = Scheduler([MODEL], cores, 4, 4.0, 0.0)
    now, running = 0.0, []
    for number, (gap, slo_s, kind) in enumerate(events):
        now += gap
        if kind == "add":
            add(books, number, now, slo_s)
        elif kind == "end" and running:
            batch = running.pop(0)
            books.finish(batch.key, now, 0.01)
        elif kind == "cores":
            books.set_cores([0.5, 1.0, 2.0, 3.5][number % 4], now)
        before = books.threads_running
        started = books.turn(now, 4 - len(running)).batches
        running += started
        assert len(running) <= 4
        assert books.threads_running == sum(batch.threads for batch in running)
        assert books.threads_running <= max(before, books.budget)


def test_what_waits_with_earlier_deadlines_goes_first() -> None:
    books = scheduler(cores=2.0)
    assert books.ahead(5.0) == (0, 0.0)
    alone = books.least_s()
    for number in range(20):
        add(books, number, 0.0, 1.0)
    row_s = MODEL.latency(8, 1) / 8
    assert books.ahead(5.0) == (20, pytest.approx(20 * row_s / 2))
    assert books.ahead(0.5) == (0, 0.0)  # goes before all of them
    assert books.least_s() == alone  # what waits will be gone before a slow body is here
