"""Dispatch of requests that differ in size: hand-computed cases, then invariants over any queue."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.cpu_sharing import CpuLoad, Running, thread_budget
from sponge_core.dispatch.decision import Decision, DispatchState, Limits
from sponge_core.dispatch.moldable_edf import decide
from sponge_core.dispatch.size_matching import RowCosts, SizedLine, cheapest_match
from sponge_core.dispatch.step import fastest_s
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.latency import LatencyModel, SizeCurve

Join = Literal["padded", "ragged", "alike"]
JOINS = st.sampled_from(get_args(Join))

# A row of size s takes s ms of parallel work; a batch takes 9 ms besides.
PLAIN = LatencyModel(gamma=0.001, delta=0.0, epsilon=0.0, eta=0.009)
PADDED = replace(PLAIN, sizes=SizeCurve((0.0, 1.0, 0.0), (0.0, 0.0, 0.0)))
RAGGED = replace(PLAIN, sizes=SizeCurve((0.0, 1.0, 0.0), (0.0, 0.0, 0.0), join="ragged"))
ALIKE = replace(PLAIN, sizes=SizeCurve((0.0, 1.0, 0.0), (0.0, 0.0, 0.0), join="alike"))
MODELS: dict[Join, LatencyModel] = {"padded": PADDED, "ragged": RAGGED, "alike": ALIKE}
LIMITS = Limits(batch_cap=8, lanes=8, max_cores=2.0)

rows_of_any_size = st.lists(
    # Few deadlines and sizes, so that ties happen.
    st.tuples(st.sampled_from([0.02, 0.05, 0.1, 0.2, 0.5, 1.0]), st.sampled_from([8.0, 16.0, 17.0, 64.0, 120.0])),
    max_size=20,
)
running_lists = st.lists(
    st.builds(Running, threads=st.integers(1, 2), left_s=st.floats(0, 0.3), deadline=st.floats(0, 1)), max_size=2
)


def queue(*rows: tuple[float, float]) -> EdfQueue:
    """(deadline, size) of each."""
    return EdfQueue(Request(i, 0.0, deadline, size=size) for i, (deadline, size) in enumerate(rows))


def launched(decision: Decision) -> list[tuple[list[int], int]]:
    return [([r.id for r in launch.requests], launch.threads) for launch in decision.launches]


def at_once(rows: EdfQueue, model: LatencyModel, cores: float = 1.0, limits: Limits = LIMITS) -> Decision:
    return decide(DispatchState(0.0, rows, (), cores, [model], limits))


def test_a_batch_takes_near_sizes_and_leaves_the_others() -> None:
    # With 100 beside it, a row of 10 would cost 90 ms of padding to save 9 ms.
    assert launched(at_once(queue((1.0, 10.0), (1.1, 100.0), (1.2, 11.0)), PADDED)) == [([0, 2], 1)]


def test_where_nothing_is_padded_the_batch_follows_the_deadlines() -> None:
    assert launched(at_once(queue((1.0, 10.0), (1.1, 100.0), (1.2, 11.0)), RAGGED)) == [([0, 1, 2], 1)]


def test_where_rows_of_several_sizes_cannot_share_a_batch_only_equal_ones_do() -> None:
    assert launched(at_once(queue((1.0, 10.0), (1.1, 11.0), (1.2, 10.0)), ALIKE)) == [([0, 2], 1)]


def test_nobody_is_passed_who_would_then_be_late() -> None:
    # The second is in time after the head alone (19 + 109 ms), not after a batch of both short ones (31 + 109 ms).
    assert launched(at_once(queue((1.0, 10.0), (1.0, 100.0), (1.2, 11.0)), PADDED)) == [([0, 2], 1)]
    tight = queue((0.125, 10.0), (0.13, 100.0), (1.2, 11.0))
    assert launched(at_once(tight, PADDED)) == [([0], 1)]


def test_a_long_request_buys_threads_where_a_short_one_needs_none() -> None:
    # 100 ms of parallel work due in 80 ms: two threads. 10 ms due in 80 ms: one.
    assert launched(at_once(queue((0.08, 100.0)), PADDED, cores=2.0)) == [([0], 2)]
    assert launched(at_once(queue((0.08, 10.0)), PADDED, cores=2.0)) == [([0], 1)]


def test_what_is_hopeless_depends_on_the_size() -> None:
    decision = at_once(queue((0.05, 100.0), (0.06, 10.0)), PADDED, cores=2.0)
    assert [(shed.request.id, shed.reason) for shed in decision.sheds] == [(0, "hopeless")]
    assert launched(decision) == [([1], 1)]


def test_the_server_decides_again_when_the_first_request_is_lost_whichever_it_is() -> None:
    # Both threads are busy. The second request needs 59 ms on two threads, the first 14: the second is lost first.
    busy = (Running(2, 9.0, 20.0),)
    state = DispatchState(0.0, queue((0.5, 10.0), (0.51, 100.0)), busy, 2.0, [PADDED], LIMITS)
    assert decide(state).wake_at == pytest.approx(0.51 - 0.059, abs=1e-5)


@given(
    deadlines=st.lists(st.floats(-0.1, 2.0), max_size=25),
    running=running_lists,
    cores=st.floats(0.3, 6.0),
    lanes=st.integers(1, 5),
    size=st.sampled_from([1.0, 64.0]),
    join=JOINS,
    rate=st.sampled_from([1.0, 100.0]),
)
def test_with_one_size_the_decision_is_that_of_moldable_edf(
    deadlines: list[float],
    running: list[Running],
    cores: float,
    lanes: int,
    size: float,
    join: Join,
    rate: float,
) -> None:
    plain = LatencyModel(gamma=0.04, delta=0.01, epsilon=0.005, eta=0.004, error=0.1, interference=0.02)
    curve = SizeCurve((0.0, 1.0 / size, 0.0), (1.0, 0.0, 0.0), join)
    limits = Limits(4, lanes, max(cores, 2.0))
    rows = EdfQueue(Request(i, -i / rate, deadline, size=size) for i, deadline in enumerate(deadlines))
    state = DispatchState(0.0, rows, running, cores, [plain], limits)
    ours, theirs = decide(state._replace(models=[replace(plain, sizes=curve)])), decide(state)
    assert launched(ours) == launched(theirs)
    assert [(s.request.id, s.reason) for s in ours.sheds] == [(s.request.id, s.reason) for s in theirs.sheds]
    assert [launch.work_s for launch in ours.launches] == pytest.approx([launch.work_s for launch in theirs.launches])
    assert (ours.wake_at is None) == (theirs.wake_at is None)
    assert ours.wake_at is None or ours.wake_at == pytest.approx(theirs.wake_at)


@given(rows=rows_of_any_size, running=running_lists, cores=st.floats(0.5, 4.0), join=JOINS)
def test_no_rule_of_the_house_is_broken(
    rows: list[tuple[float, float]], running: list[Running], cores: float, join: Join
) -> None:
    model = replace(MODELS[join], error=0.05)
    waiting = queue(*rows)
    before = list(waiting)
    made = decide(DispatchState(0.0, waiting, running, cores, [model], LIMITS))
    assert list(waiting) == before, "the queue is read, not changed"
    touched = [r.id for launch in made.launches for r in launch.requests] + [s.request.id for s in made.sheds]
    assert len(touched) == len(set(touched)), "a request has one fate"
    busy = sum(batch.threads for batch in running)
    assert sum(launch.threads for launch in made.launches) <= max(0, thread_budget(cores) - busy)
    for launch in made.launches:
        assert join != "alike" or len({r.size for r in launch.requests}) == 1
        work_s = model.of_batch([r.size for r in launch.requests]).latency(len(launch.requests), launch.threads)
        assert launch.work_s == pytest.approx(work_s)
        assert work_s * 1.05 <= min(r.deadline for r in launch.requests) + 1e-9, "nobody is launched to be late"
        order = [(r.deadline, r.id) for r in launch.requests]
        assert order == sorted(order)


@given(rows=rows_of_any_size, join=JOINS, cores=st.floats(0.5, 4.0))
def test_among_equals_the_earlier_one_goes_first(rows: list[tuple[float, float]], join: Join, cores: float) -> None:
    made = at_once(queue(*rows), MODELS[join], cores)
    gone = {r.id for launch in made.launches for r in launch.requests} | {s.request.id for s in made.sheds}
    for first, row in enumerate(rows):
        for second in range(first + 1, len(rows)):
            assert not (rows[second] == row and second in gone and first not in gone)


@given(rows=rows_of_any_size.filter(bool), free=st.integers(1, 3))
def test_a_batch_costs_no_more_than_its_rows_one_by_one(rows: list[tuple[float, float]], free: int) -> None:
    waiting = queue(*rows)
    line = SizedLine(0, waiting.deadlines[0], waiting.sizes[0])
    found = cheapest_match(RowCosts([PADDED], 4.0), line, 0, 10.0, 8, free, CpuLoad(0.0, 4.0, []), 0)
    assert found is not None
    alone_s = sum(PADDED.at(line.sizes[index]).latency(1, 1) for index in found.members)
    assert found.threads * found.work_s <= alone_s + 1e-9


@given(
    sizes=st.lists(st.floats(1.0, 500.0), min_size=1, max_size=8),
    more=st.floats(0.0, 100.0),
    threads=st.integers(1, 8),
    join=JOINS,
)
def test_a_batch_never_gets_faster_with_size_nor_slower_with_threads(
    sizes: list[float], more: float, threads: int, join: Join
) -> None:
    model = replace(PLAIN, delta=0.0005, sizes=SizeCurve((0.1, 0.9, 0.002), (0.0, 0.2, 0.0), join))
    batch = len(sizes)
    before = model.of_batch(sizes).latency(batch, threads)
    larger = model.of_batch([*sizes[:-1], sizes[-1] + more]).latency(batch, threads)
    assert larger >= before * (1 - 1e-12)
    assert model.of_batch(sizes).latency(batch, threads + 1) <= before * (1 + 1e-12)
    assert model.of_batch([*sizes, sizes[0]]).latency(batch + 1, threads) >= before * (1 - 1e-12)
    assert model.of_batch([sizes[0]] * batch).latency(batch, threads) == pytest.approx(
        model.at(sizes[0]).latency(batch, threads)
    )


@given(
    sizes=st.lists(st.sampled_from([8.0, 10.0, 20.0, 40.0, 200.0, 400.0]), min_size=1, max_size=6),
    slack_s=st.floats(0.02, 1.0),
    join=st.sampled_from(["padded", "alike"]),
    by_threads=st.sampled_from([(), (1.2, 0.5)]),
)
def test_no_batch_with_the_head_is_cheaper_than_the_one_found(
    sizes: list[float], slack_s: float, join: Join, by_threads: tuple[float, ...]
) -> None:
    model = replace(MODELS[join], by_threads=by_threads)
    line = SizedLine(0, [slack_s] + [100.0] * (len(sizes) - 1), sizes)
    found = cheapest_match(RowCosts([model], 4.0), line, 0, slack_s, 8, 2, CpuLoad(0.0, 4.0, []), 0)
    costs = []
    for others in (each for count in range(len(sizes)) for each in combinations(range(1, len(sizes)), count)):
        own = [sizes[index] for index in (0, *others)]
        if join == "alike" and len(set(own)) > 1:
            continue
        for threads in (1, 2):
            work_s = model.of_batch(own).latency(len(own), threads)
            if work_s <= slack_s:
                costs.append(threads * work_s / sum(model.at(size).latency(1, 1) for size in own))
    assert (found is None) == (not costs)
    if found is not None:
        worth = sum(model.at(sizes[index]).latency(1, 1) for index in found.members)
        assert found.threads * found.work_s / worth == pytest.approx(min(costs))


@given(rows=rows_of_any_size, running=running_lists, factors=st.lists(st.floats(0.5, 3.0), max_size=9), join=JOINS)
def test_whatever_was_learned_by_octave_no_decision_wakes_itself_in_the_past(
    rows: list[tuple[float, float]], running: list[Running], factors: list[float], join: Join
) -> None:
    curve = MODELS[join].sizes
    assert curve is not None
    model = replace(MODELS[join], sizes=replace(curve, by_octave=tuple(factors)))
    made = decide(DispatchState(0.0, queue(*rows), running, 2.0, [model], LIMITS))
    assert made.wake_at is None or made.wake_at > 0.0
    for shed in made.sheds:
        if shed.reason != "sacrificed":
            assert shed.request.deadline < fastest_s(model.at(shed.request.size), 2.0)


@given(rows=rows_of_any_size, error=st.floats(0.0, 0.5), cores=st.floats(0.1, 2.0), join=JOINS)
def test_an_idle_server_never_sits_while_it_holds_a_request_whose_time_suffices(
    rows: list[tuple[float, float]], error: float, cores: float, join: Join
) -> None:
    model = replace(MODELS[join], error=error)
    waiting = queue(*rows)
    made = at_once(waiting, model, cores)
    shed = {each.request.id for each in made.sheds}
    if any(r.id not in shed and fastest_s(model.at(r.size), cores) <= r.deadline for r in waiting):
        assert made.launches
