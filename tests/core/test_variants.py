"""Cheaper variants: hand-computed cases, then invariants over any queue."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.cpu_sharing import Running, thread_budget
from sponge_core.dispatch.decision import Decision, DispatchState, Limits, Variant
from sponge_core.dispatch.moldable_edf import decide
from sponge_core.dispatch.policies.moldable import MoldableEdf
from sponge_core.dispatch.variant_rule import PATIENCE_S, VariantRule
from sponge_core.dispatch.variants import lines_at
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.latency import LatencyModel, SizeCurve

# 100 ms an item on one thread, of which 80 parallel; 10 ms fixed. The variants take a half and a tenth.
FULL = LatencyModel(gamma=0.08, delta=0.02, epsilon=0.0, eta=0.01)
HALF, TENTH = Variant(0.7, FULL.scaled(0.5)), Variant(0.6, FULL.scaled(0.1))
ANY, GOLD = 0.5, math.inf
LONG_AGO = -100.0
ONE_CORE = Limits(batch_cap=8, lanes=8, max_cores=1.0)


def state(
    *requests: tuple[float, float],
    cores: float = 1.0,
    limits: Limits = ONE_CORE,
    now: float = 0.0,
    running: tuple[Running, ...] = (),
    model: LatencyModel = FULL,
    variants: tuple[Variant, ...] = (HALF, TENTH),
) -> DispatchState:
    """`requests`: deadline and floor of each. They came so long ago that no further ones are expected."""
    queue = EdfQueue(Request(i, LONG_AGO, deadline, floor=floor) for i, (deadline, floor) in enumerate(requests))
    return DispatchState(now, queue, running, cores, [model], limits, [variants])


def launched(decision: Decision) -> list[tuple[list[int], int]]:
    """The requests and the variant of each batch."""
    return [([request.id for request in launch.requests], launch.variant) for launch in decision.launches]


def test_the_model_itself_answers_while_it_can_answer_all() -> None:
    assert launched(VariantRule().decide(state((0.5, ANY), (0.6, ANY)))) == [([0, 1], 0)]
    backlog = [(0.5 + 0.12 * index, ANY) for index in range(6)]
    assert all(variant == 0 for _, variant in launched(VariantRule().decide(state(*backlog))))


def test_the_most_accurate_variant_that_saves_all_answers() -> None:
    assert launched(VariantRule().decide(state(*[(0.5, ANY)] * 5))) == [([0, 1, 2, 3, 4], 1)]
    assert launched(VariantRule().decide(state(*[(0.15, ANY)] * 5))) == [([0, 1, 2, 3, 4], 2)]


def test_a_request_that_only_a_variant_can_answer_is_not_lost() -> None:
    decision = VariantRule().decide(state((0.08, ANY), (5.0, ANY)))
    assert launched(decision) == [([0], 1)]
    assert decision.sheds == ()


def test_a_floor_keeps_its_request_off_less_accurate_variants() -> None:
    decision = VariantRule().decide(state((0.09, GOLD), (0.09, 0.65), (0.04, 0.65), (0.04, ANY)))
    assert [(shed.request.id, shed.reason) for shed in decision.sheds] == [(2, "expired"), (0, "expired")]
    assert launched(decision) == [([3], 2)]


def test_nobody_waits_for_a_variant_without_a_floor_below_it() -> None:
    requests = [(0.3 + 0.05 * index, GOLD) for index in range(8)]
    without = state(*requests)._replace(variants=())
    assert MoldableEdf().decide(state(*requests)) == MoldableEdf().decide(without) == decide(without)


def test_gold_and_others_share_the_cores_in_one_order() -> None:
    # The gold request takes 110 ms; the others are in time after it only on the cheaper variant.
    decision = VariantRule().decide(state((0.12, GOLD), *[(0.4, ANY)] * 4))
    assert launched(decision) == [([0], 0)]
    after = VariantRule().decide(state(*[(0.29, ANY)] * 4))
    assert launched(after) == [([0, 1, 2, 3], 1)]


def test_cores_come_before_variants_as_long_as_they_come() -> None:
    rule, limits = VariantRule(), Limits(8, 8, 4.0)
    requests = [(1.0, ANY)] * 12

    def variant(now: float, cores: float = 1.0) -> int:
        late = [(deadline + now, floor) for deadline, floor in requests]
        return rule.decide(state(*late, cores=cores, limits=limits, now=now)).launches[0].variant

    assert variant(0.0) == 0  # 4 cores are enough, and may come
    assert variant(PATIENCE_S / 2) == 0
    assert variant(PATIENCE_S) == 1  # they did not come
    assert variant(10.0) == 1  # and are not expected any more
    assert variant(10.1, cores=1.5) == 0  # until there is a sign of them


def test_without_hope_for_cores_in_time_a_variant_answers_at_once() -> None:
    # Full needs 110 ms on one core and 40 ms on 4, which come after 100 ms.
    limits = Limits(8, 8, 4.0)
    assert launched(VariantRule().decide(state((0.105, ANY), (0.105, ANY), limits=limits))) == [([0, 1], 2)]


def test_on_an_idle_server_a_variant_starts_what_only_the_allowance_refuses() -> None:
    # Half of l(1,1) is 55 ms, 82.5 ms with the allowance; 70 ms are left, and the floor forbids the cheapest.
    unsure = [Variant(each.accuracy, replace(each.latency, error=0.5)) for each in (HALF, TENTH)]
    assert launched(VariantRule().decide(state((0.07, 0.65), variants=tuple(unsure)))) == [([0], 1)]
    busy = state((0.07, 0.65), variants=tuple(unsure), running=(Running(1, 0.01, 1.0),))
    assert launched(VariantRule().decide(busy)) == []


def test_a_model_with_sizes_has_variants_too() -> None:
    curve = SizeCurve((0.0, 0.01, 0.0), (0.0, 0.01, 0.0))
    sized = replace(FULL, sizes=curve)
    cheap = Variant(0.7, sized.scaled(0.1))
    queue = EdfQueue(Request(i, LONG_AGO, 0.5, size=100.0, floor=ANY) for i in range(8))
    short = EdfQueue(Request(i, LONG_AGO, 0.5, size=10.0, floor=ANY) for i in range(8))
    for waiting, expected in ((queue, 1), (short, 0)):
        made = VariantRule().decide(DispatchState(0.0, waiting, (), 1.0, [sized], ONE_CORE, [(cheap,)]))
        assert [(len(launch.requests), launch.variant) for launch in made.launches] == [(8, expected)]


requests_of_any_kind = st.lists(
    st.tuples(st.floats(0.0, 2.0), st.sampled_from([GOLD, 0.7, 0.65, 0.6, ANY])), min_size=1, max_size=30
)
batches_that_run = st.lists(
    st.builds(Running, st.integers(1, 2), st.floats(0.0, 0.3), st.floats(0.0, 1.0)), max_size=2
).map(tuple)


@given(
    requests=requests_of_any_kind,
    running=batches_that_run,
    cores=st.sampled_from([0.5, 1.0, 2.0, 2.5, 4.0]),
    room=st.sampled_from([1.0, 2.0]),
    sized=st.booleans(),
)
def test_a_decision_keeps_its_promises(
    requests: list[tuple[float, float]], running: tuple[Running, ...], cores: float, room: float, sized: bool
) -> None:
    model = replace(FULL, sizes=SizeCurve((0.5, 0.5, 0.0), (0.5, 0.5, 0.0))) if sized else FULL
    variants = (Variant(0.7, model.scaled(0.5)), Variant(0.6, model.scaled(0.1)))
    given_state = state(
        *requests, cores=cores, limits=Limits(8, 4, cores * room), running=running, model=model, variants=variants
    )
    decision = VariantRule().decide(given_state)
    accuracies = (math.inf, 0.7, 0.6)
    launched_requests = [request for launch in decision.launches for request in launch.requests]
    for launch in decision.launches:
        assert all(accuracies[launch.variant] >= request.floor for request in launch.requests)
    told = [*launched_requests, *(shed.request for shed in decision.sheds)]
    assert len({request.id for request in told}) == len(told)
    used = sum(batch.threads for batch in running)
    assert used + sum(launch.threads for launch in decision.launches) <= max(used, thread_budget(cores))
    if not lines_at(given_state, 0).misses(cores, 0.0):
        # Without overload the model itself answers whoever it can answer at all.
        for launch in decision.launches:
            fastest = min(model.latency(1, threads) * threads / min(threads, cores * room) for threads in range(1, 9))
            late = all(request.deadline < fastest + 0.2 for request in launch.requests)
            assert launch.variant == 0 or late


@given(requests=requests_of_any_kind, running=batches_that_run, cores=st.sampled_from([1.0, 2.0, 4.0]))
def test_variants_do_not_lose_a_request_that_the_model_alone_saves(
    requests: list[tuple[float, float]], running: tuple[Running, ...], cores: float
) -> None:
    given_state = state(*requests, cores=cores, limits=Limits(8, 4, cores), running=running)
    lost = {shed.request.id for shed in VariantRule().decide(given_state).sheds if shed.reason != "sacrificed"}
    alone = decide(given_state._replace(variants=()), sacrifice=False)
    assert lost <= {shed.request.id for shed in alone.sheds}


def test_however_much_waits_the_cheapest_variants_answer() -> None:
    decision = VariantRule().decide(state(*[(0.5, ANY)] * 3000))
    assert launched(decision) == [([*range(8)], 2)]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_waiting_request_is_in_one_line(level: int) -> None:
    floors = (GOLD, 0.7, 0.65, 0.6, ANY)
    decision = lines_at(state(*[(9.0, floor) for floor in floors], cores=4.0, limits=Limits(8, 8, 4.0)), level).plan(
        sacrifice=False
    )
    by_variant = {variant: ids for ids, variant in launched(decision)}
    assert (
        by_variant
        == [
            {0: [0, 1, 2, 3, 4]},
            {0: [0], 1: [1, 2, 3, 4]},
            {0: [0], 1: [1, 2], 2: [3, 4]},
        ][level]
    )
