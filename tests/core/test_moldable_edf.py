"""The dispatch rule: hand-computed cases, then invariants over any queue."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sponge_core.cpu_sharing import CpuLoad, Running, thread_budget
from sponge_core.dispatch.batch_sizing import cheapest_batch
from sponge_core.dispatch.decision import Decision, DispatchState, Limits
from sponge_core.dispatch.moldable_edf import decide, plan_step
from sponge_core.dispatch.step import fastest_s
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.latency import FLOOR_S, LatencyModel

# 100 ms an item on one thread, of which 80 parallel; 10 ms fixed.
MODEL = LatencyModel(gamma=0.08, delta=0.02, epsilon=0.0, eta=0.01)
LIMITS = Limits(batch_cap=8, lanes=8, max_cores=4.0)


def queue(*deadlines: float) -> EdfQueue:
    return EdfQueue(Request(i, 0.0, deadline) for i, deadline in enumerate(deadlines))


def launched(decision: Decision) -> list[tuple[list[int], int]]:
    return [([r.id for r in launch.requests], launch.threads) for launch in decision.launches]


def test_an_empty_queue_waits_for_nothing() -> None:
    assert decide(DispatchState(0.0, queue(), (), 4.0, [MODEL], LIMITS)) == Decision((), (), None)


def test_loose_deadlines_share_one_thread_in_one_batch() -> None:
    assert launched(decide(DispatchState(0.0, queue(2.0, 2.0, 2.0), (), 4.0, [MODEL], LIMITS))) == [([0, 1, 2], 1)]


def test_a_tight_deadline_buys_threads() -> None:
    # l(1,1) = 110 ms, l(1,2) = 70 ms: only two threads or more meet 80 ms, and two are the cheapest.
    assert launched(decide(DispatchState(0.0, queue(0.08), (), 4.0, [MODEL], LIMITS))) == [([0], 2)]


def test_the_batch_is_as_large_as_the_head_allows_and_the_rest_runs_beside_it() -> None:
    # 220 ms hold l(2,1) = 210 ms but not l(3,1) = 310 ms. l(3,2) = 190 ms costs 127 core-ms a request against 105.
    decision = decide(DispatchState(0.0, queue(0.22, 0.5, 0.6, 0.7), (), 4.0, [MODEL], LIMITS))
    assert launched(decision) == [([0, 1], 1), ([2, 3], 1)]


def test_the_cap_and_the_lanes_bound_the_launches() -> None:
    assert launched(decide(DispatchState(0.0, queue(*[9.0] * 5), (), 4.0, [MODEL], Limits(2, 2, 4.0)))) == [
        ([0, 1], 1),
        ([2, 3], 1),
    ]


def test_what_is_hopeless_on_the_most_cores_is_shed_at_once_and_the_rest_served() -> None:
    decision = decide(DispatchState(0.0, queue(0.04, 1.0), (), 1.0, [MODEL], LIMITS))
    assert [(s.request.id, s.reason) for s in decision.sheds] == [(0, "hopeless")]
    assert launched(decision) == [([1], 1)]


def test_a_request_lost_while_it_waited_is_expired() -> None:
    decision = decide(DispatchState(0.97, queue(1.0), (), 4.0, [MODEL], LIMITS))
    assert [(s.request.id, s.reason) for s in decision.sheds] == [(0, "expired")]


def test_a_request_that_only_a_larger_size_could_meet_waits_and_is_passed() -> None:
    decision = decide(DispatchState(0.0, queue(0.08, 1.0), (), 1.0, [MODEL], LIMITS))
    assert not decision.sheds
    assert launched(decision) == [([1], 1)]
    assert decision.wake_at == pytest.approx(0.08 - fastest_s(MODEL, 4.0), abs=1e-5)


def test_threads_are_held_for_a_tight_head() -> None:
    # Two threads; one is busy for 30 ms. The head needs both (l(1,2) = 70 ms) and is in time if it starts then.
    busy = (Running(threads=1, left_s=0.03, deadline=9.0),)
    assert launched(decide(DispatchState(0.0, queue(0.105, 5.0), busy, 2.0, [MODEL], LIMITS))) == []


def test_later_requests_backfill_what_the_held_one_leaves() -> None:
    # Four threads, one free; in 30 ms all are, and the head will need two of them.
    busy = (Running(threads=3, left_s=0.03, deadline=9.0),)
    assert launched(decide(DispatchState(0.0, queue(0.105, 5.0), busy, 4.0, [MODEL], LIMITS))) == [([1], 1)]


def test_a_fractional_quota_does_not_let_a_second_batch_break_the_first() -> None:
    # 1.5 cores: a second thread slows the first to 3/4. It has 100 ms left and 110 ms of room: 133 ms would be late.
    busy = (Running(threads=1, left_s=0.1, deadline=0.11),)
    assert launched(decide(DispatchState(0.0, queue(5.0), busy, 1.5, [MODEL], LIMITS))) == []
    loose = (Running(threads=1, left_s=0.1, deadline=0.5),)
    assert launched(decide(DispatchState(0.0, queue(5.0), loose, 1.5, [MODEL], LIMITS))) == [([0], 1)]


# Half the work of the first model, and no more than two at once.
SMALL = LatencyModel(gamma=0.04, delta=0.01, epsilon=0.0, eta=0.005, max_batch=2)


def mixed(*requests: tuple[float, int]) -> EdfQueue:
    return EdfQueue(Request(i, 0.0, deadline, model=model) for i, (deadline, model) in enumerate(requests))


def test_a_batch_holds_requests_of_its_head_s_model_and_the_others_keep_their_place() -> None:
    waiting = mixed((2.0, 0), (2.1, 1), (2.2, 0), (2.3, 1), (2.4, 1))
    assert launched(decide(DispatchState(0.0, waiting, (), 4.0, [MODEL, SMALL], LIMITS))) == [
        ([0, 2], 1),
        ([1, 3], 1),
        ([4], 1),
    ]


def test_a_long_queue_is_not_searched_where_a_fraction_has_to_be_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The running batch needs its full speed, so no second one may start, however much time it has.
    looks = 0

    def counted(*arguments: object, **named: object) -> object:
        nonlocal looks
        looks += 1
        return cheapest_batch(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("sponge_core.dispatch.moldable_edf.cheapest_batch", counted)
    running = (Running(1, 0.2, 0.201),)
    decision = decide(DispatchState(0.0, queue(*[1.0 + n / 1000 for n in range(500)]), running, 1.5, [MODEL], LIMITS))
    assert (decision.launches, decision.sheds) == ((), ())
    assert looks < 10


def test_the_earliest_deadline_of_all_models_comes_first() -> None:
    one_lane = Limits(8, 1, 4.0)
    assert launched(decide(DispatchState(0.0, mixed((2.0, 0), (1.0, 1)), (), 4.0, [MODEL, SMALL], one_lane))) == [
        ([1], 1)
    ]
    assert launched(decide(DispatchState(0.0, mixed((0.5, 0), (1.0, 1)), (), 4.0, [MODEL, SMALL], one_lane))) == [
        ([0], 1)
    ]


def test_each_model_is_hopeless_by_its_own_latency() -> None:
    # On one thread the first model takes 110 ms, the second 55 ms.
    decision = decide(
        DispatchState(0.0, mixed((0.06, 1), (0.06, 0), (0.05, 1)), (), 1.0, [MODEL, SMALL], Limits(8, 8, 1.0))
    )
    assert [s.request.id for s in decision.sheds] == [2, 1]
    assert launched(decision) == [([0], 1)]


model_values = st.builds(
    LatencyModel,
    gamma=st.floats(0.001, 0.2),
    delta=st.floats(0.0, 0.05),
    epsilon=st.floats(-0.05, 0.05),
    eta=st.floats(0.0, 0.05),
    interference=st.floats(0, 0.1),
    error=st.floats(0, 0.3),
    max_batch=st.integers(1, 9),
    by_threads=st.lists(st.floats(0.5, 2.0), max_size=3).map(tuple),
)
running_lists = st.lists(
    st.builds(Running, threads=st.integers(1, 3), left_s=st.floats(0, 0.5), deadline=st.floats(0, 2)), max_size=3
)


@given(
    st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 2)), max_size=25),
    running_lists,
    st.floats(0.1, 8),
    st.floats(0, 8),
    st.lists(model_values, min_size=3, max_size=3),
    st.integers(1, 8),
    st.integers(1, 8),
)
def test_invariants(
    requests: list[tuple[float, int]],
    running: list[Running],
    cores: float,
    more: float,
    models: list[LatencyModel],
    cap: int,
    lanes: int,
) -> None:
    now = 0.5
    waiting = mixed(*requests)
    before = list(waiting)
    limits = Limits(cap, lanes, cores + more)
    decision = decide(DispatchState(now, waiting, running, cores, models, limits))

    assert list(waiting) == before, "the queue is read, not changed"
    touched = [r.id for launch in decision.launches for r in launch.requests] + [s.request.id for s in decision.sheds]
    assert len(touched) == len(set(touched)), "a request has one fate"
    free = thread_budget(cores) - sum(b.threads for b in running)
    assert sum(launch.threads for launch in decision.launches) <= max(0, free)
    assert len(decision.launches) <= max(0, lanes - len(running))
    for launch in decision.launches:
        assert len({r.model for r in launch.requests}) == 1, "a batch is of one model"
        assert 1 <= len(launch.requests) <= min(cap, models[launch.requests[0].model].max_batch)
        keys = [(r.deadline, r.id) for r in launch.requests]
        assert keys == sorted(keys), "earliest deadline first, ties in order of arrival"
        assert now + launch.work_s <= launch.requests[0].deadline + 1e-9, "no launch that is late by its own prediction"
    fastest = [fastest_s(model, limits.max_cores) for model in models]
    lost = {s.request.id for s in decision.sheds if s.reason != "sacrificed"}
    assert lost == {r.id for r in before if r.deadline < now + fastest[r.model]}
    if decision.wake_at is not None:
        assert decision.wake_at > now


@given(
    st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 1)), max_size=25),
    st.lists(model_values, min_size=2, max_size=2),
    st.floats(0.05, 4),
    st.floats(0, 4),
    st.integers(1, 8),
)
def test_an_idle_server_never_sits_while_it_holds_a_request_whose_time_suffices(
    requests: list[tuple[float, int]], models: list[LatencyModel], cores: float, more: float, cap: int
) -> None:
    waiting = mixed(*requests)
    limits = Limits(cap, lanes=4, max_cores=cores + more)
    decision = decide(DispatchState(0.0, waiting, (), cores, models, limits))
    shed = {each.request.id for each in decision.sheds}
    if any(r.id not in shed and fastest_s(models[r.model], cores) <= r.deadline for r in waiting):
        assert decision.launches


def test_a_request_that_only_the_allowance_refuses_starts_where_nothing_else_can() -> None:
    # l(1,1) = 110 ms, 132 ms with the allowance.
    unsure = replace(MODEL, error=0.2)
    tight = DispatchState(0.0, queue(0.12, 0.13), (), 1.0, [unsure], replace(LIMITS, max_cores=1.0))
    assert launched(decide(tight)) == [([0], 1)]
    assert launched(decide(tight._replace(running=(Running(1, 0.01, 9.0),), cores=2.0))) == []


def test_it_starts_before_later_deadlines_that_can_all_wait_for_it() -> None:
    # 132 ms with the allowance, then 132 ms for one more, or 252 ms for a batch of two.
    unsure = replace(MODEL, error=0.2)

    def starts(*deadlines: float, cores: float = 1.0, limits: Limits = LIMITS) -> list[tuple[list[int], int]]:
        limits = replace(limits, max_cores=cores)
        return launched(decide(DispatchState(0.0, queue(*deadlines), (), cores, [unsure], limits)))

    assert starts(0.12, 0.27) == [([0], 1)]
    assert starts(0.12, 0.26) == [([1], 1)], "it would be late by the allowance"
    assert starts(0.12, 5.0, 5.0) == [([0], 1)]
    assert starts(0.12, 0.38, 5.0) == [([1, 2], 1)], "as a batch they cannot wait"
    assert starts(0.12, 5.0, 5.0, limits=Limits(1, 8, 1.0)) == [([1], 1)], "one more waits behind them"
    assert starts(0.07, 5.0, cores=2.0) == [([0], 2)], "on two threads it is in time"
    assert starts(0.12, 0.13, 5.0) == [([2], 1)], "of two, only one could be in time"


@given(
    st.floats(0.0, 1.0), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8), st.floats(0.05, 4), st.integers(1, 8)
)
def test_who_waits_for_what_only_the_allowance_refuses_loses_nothing(
    unsure: float, later: list[float], cores: float, cap: int
) -> None:
    model = replace(MODEL, error=0.5)
    answered_s, surely_s = fastest_s(model, cores), fastest_s(model, cores, 1.5)
    first = answered_s + unsure * (surely_s - answered_s)
    waiting = queue(first, *sorted(first + wait for wait in later))
    state = DispatchState(0.0, waiting, (), cores, [model], Limits(cap, 8, cores))
    by_rule = plan_step(0.0, waiting.deadlines, (), cores, [model], state.limits, [answered_s])
    if by_rule.launches and by_rule.launches[0].first > 0 and launched(decide(state))[0][0] == [0]:
        waiting.discard(0)
        then = decide(state._replace(now=surely_s))
        assert then.sheds == ()
        assert then.launches[0].requests[0].id == 1


@given(st.floats(0.001, 3.0), model_values, st.integers(1, 8), st.integers(1, 6))
def test_no_other_batch_is_cheaper_than_the_cheapest(slack: float, model: LatencyModel, most: int, free: int) -> None:
    def cost(batch: int, threads: int) -> float:
        return threads * model.latency(batch, threads) / batch

    # Where a fit crosses zero, the floor makes a pair free that the formula does not know.
    assume(all(model.latency(1, threads) > FLOOR_S for threads in range(1, free + 1)))
    in_time = [
        cost(batch, threads)
        for batch in range(1, most + 1)
        for threads in range(1, free + 1)
        if model.latency(batch, threads) * (1 + model.error) <= slack * (1 - 1e-9)
    ]
    found = cheapest_batch(model, slack, most, free, CpuLoad(0.0, float(free), []))
    if found is None:
        assert not in_time
        return
    assert model.latency(found.batch, found.threads) * (1 + model.error) <= slack * (1 + 1e-9)
    if in_time:
        assert cost(found.batch, found.threads) <= min(in_time) * (1 + 1e-6)
