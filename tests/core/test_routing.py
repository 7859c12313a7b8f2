"""The rules that choose a pod, and the table of what a front knows: no rule prefers a pod that takes no requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sponge_core.edf_queue import Request
from sponge_core.routing.interface import PodView, Sent, candidates
from sponge_core.routing.pod_load import PodLoad, RunningBatch
from sponge_core.routing.pod_table import Choice, PodTable
from sponge_core.routing.registry import DEFAULT, RULES, RuleName

NOW = 100.0
LATENCY = {"gamma_s": 0.012, "delta_s": 0.003, "epsilon_s": 0.0, "eta_s": 0.01, "max_batch": 8}
"""One request takes 25 ms on one thread, eight of them 130 ms."""


def load(slacks: Sequence[float] = (), **changes: object) -> PodLoad:
    values = {"now_s": 5.0, "accepting": True, "cores_milli": 500, "most_milli": 500, "batch_cap": 8, "lanes": 1}
    return PodLoad.model_validate(values | {"slack_s": sorted(slacks), "had_s": [1.0] * len(slacks)} | changes)


def request(slack_s: float = 1.0, number: int = 0) -> Request:
    return Request(number, NOW, NOW + slack_s, NOW)


slacks = st.lists(st.floats(-1, 5), max_size=10)
batches = st.builds(
    RunningBatch, requests=st.integers(1, 8), threads=st.just(1), left_s=st.floats(0, 1), slack_s=st.floats(-1, 5)
)
loads = st.builds(
    lambda slacks, running, accepting, cores, latency: load(
        slacks, running=running, accepting=accepting, cores_milli=cores, most_milli=cores, latency=latency
    ),
    slacks,
    st.lists(batches, max_size=1),
    st.booleans(),
    st.sampled_from((500, 1000, 2000)),
    st.sampled_from((None, LATENCY)),
)
sent = st.lists(st.floats(0, 1), max_size=5).map(
    lambda ages: [Sent(number, NOW - age, NOW - age + 1.0) for number, age in enumerate(sorted(ages, reverse=True))]
)
views = st.builds(
    lambda load, age, sent, ejected: PodView("", load, NOW - age, age / 10, sent, len(sent), ejected),
    st.none() | loads,
    st.floats(0, 6),
    sent,
    st.booleans(),
)
pods = st.lists(views, min_size=1, max_size=5).map(
    lambda found: [replace(pod, name=f"pod-{number}") for number, pod in enumerate(found)]
)
rules = st.sampled_from(sorted(RULES))


def chosen(
    rule: RuleName, pods: Sequence[PodView], slack_s: float = 1.0, draw: Callable[[], float] = lambda: 0.0
) -> int:
    index = RULES[rule].make(draw).choose(NOW, request(slack_s), pods)
    assert index is not None
    return index


@given(rules, pods, st.floats(-1, 5), st.floats(0, 0.999))
def test_a_pod_that_takes_requests_is_preferred(
    rule: RuleName, pods: list[PodView], slack_s: float, drawn: float
) -> None:
    index = chosen(rule, pods, slack_s, lambda: drawn)
    assert index in candidates(pods)
    if any(pod.accepting for pod in pods):
        assert pods[index].accepting
    if any(pod.accepting and not pod.ejected for pod in pods):
        assert not pods[index].ejected


@given(st.sampled_from(("in-turn", "least-outstanding", "least-queue")), pods, st.randoms(use_true_random=False))
def test_the_order_of_the_pods_matters_only_on_ties(rule: RuleName, pods: list[PodView], random: Random) -> None:
    def rank(pod: PodView) -> object:
        has = 0 if pod.load is None else pod.load.requests
        return {"in-turn": pod.name, "least-outstanding": pod.outstanding}.get(rule, len(pod.sent) + has)

    shuffled = pods.copy()
    random.shuffle(shuffled)
    assert rank(pods[chosen(rule, pods)]) == rank(shuffled[chosen(rule, shuffled)])


@pytest.mark.parametrize("rule", RULES)
def test_no_pod_no_choice(rule: RuleName) -> None:
    assert RULES[rule].make(Random(1).random).choose(NOW, request(), []) is None


def test_the_default_is_in_the_registry() -> None:
    assert DEFAULT in RULES


def test_pods_take_turns() -> None:
    rule, three = RULES["in-turn"].make(Random(1).random), [PodView(name) for name in "bac"]
    assert [rule.choose(NOW, request(), three) for _ in range(4)] == [1, 0, 2, 1]


def test_random_reaches_every_pod() -> None:
    rule, three = RULES["random"].make(Random(1).random), [PodView(name) for name in "abc"]
    assert {rule.choose(NOW, request(), three) for _ in range(50)} == {0, 1, 2}


def test_what_was_sent_counts_until_a_report_includes_it() -> None:
    table = PodTable("front-1", RULES["least-queue"].make(Random(1).random))
    table.keep(("a", "b"))
    for name in ("a", "b"):
        table.reported(name, load(), NOW)
    first, second, third = (table.choose(NOW, request(number=number)) for number in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert {first.pod, second.pod} == {"a", "b"}
    assert [first.number, second.number, third.number] == [1, 1, 2]
    table.reported(third.pod, load((0.9, 0.9), received={"front-1": 2, "front-2": 7}), NOW + 0.1)
    view = next(view for view in table.views(NOW + 0.1) if view.name == third.pod)
    assert (list(view.sent), view.outstanding) == ([], 2)
    table.ended(third, "answered", NOW + 0.2)
    table.ended(third, "answered", NOW + 0.2)
    assert sum(view.outstanding for view in table.views(NOW + 0.1)) == 2


def test_a_pod_that_is_gone_is_forgotten() -> None:
    table = PodTable("front-1", RULES["in-turn"].make(Random(1).random))
    assert table.choose(NOW, request()) is None
    table.keep(("a", "b"))
    sent_to = table.choose(NOW, request())
    assert sent_to == Choice("a", 1)
    table.keep(("b",))
    table.ended(sent_to, "failed", NOW)
    table.reported("a", load(), NOW)
    assert [view.name for view in table.views(NOW + 0.1)] == ["b"]


@pytest.mark.parametrize("rule", RULES)
def test_a_choice_among_some_pods_is_one_of_them(rule: RuleName) -> None:
    table = PodTable("front-1", RULES[rule].make(Random(1).random))
    table.keep(("a", "b", "c"))
    for name in ("a", "b", "c"):
        table.reported(name, load(), NOW)
    found = [table.choose(NOW, request(number=number), among={"b", "gone"}) for number in range(4)]
    assert [(choice.pod, choice.number) for choice in found if choice] == [("b", number) for number in range(1, 5)]
    assert table.choose(NOW, request(), among=set()) is None


def test_the_age_of_a_report_counts_from_when_it_came() -> None:
    table = PodTable("front-1", RULES["in-turn"].make(Random(1).random))
    table.keep(("a", "b", "c"))
    assert table.report_ages(NOW) == []
    table.reported("a", load(), NOW)
    table.reported("b", load(), NOW + 1.0)
    assert table.report_ages(NOW + 1.5) == [1.5, 0.5]


def test_a_load_says_how_many_wait_and_how_fast_it_is() -> None:
    running = [RunningBatch(requests=4, threads=1, left_s=0.1, slack_s=0.3)]
    busy = load((0.1, 0.2), more=3, running=running)
    assert (busy.waiting, busy.requests) == (5, 9)
    assert load().model() is None
    model = load(latency=LATENCY, error=0.03, interference=0.02).model()
    assert model is not None
    assert (model.latency(8, 1), model.error, model.slowdown(1)) == (pytest.approx(0.13), 0.03, 1.02)


def test_a_load_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="give one for each"):
        load((0.5,), had_s=())
    with pytest.raises(ValidationError, match="due first"):
        load(more=1)


def known(name: str, slacks: Sequence[float] = (), **changes: object) -> PodView:
    return PodView(name, load(slacks, latency=LATENCY, **changes), NOW)


@pytest.mark.parametrize(
    ("slack_s", "pods", "best"),
    [
        pytest.param(1.0, [known("a", [0.9] * 9), known("b", [0.9] * 2)], 1, id="the pod that is done the soonest"),
        pytest.param(0.3, [known("a", [0.3] * 8), known("b", [5.0] * 9)], 1, id="where the patient give way"),
        pytest.param(0.9, [known("a", [0.9] * 16), known("b", [0.8] * 7)], 1, id="where nobody misses"),
        pytest.param(2.0, [known("a", [0.17]), known("b", [5.0] * 7)], 1, id="where a slow batch does no harm"),
        pytest.param(1.0, [known("a"), known("b", cores_milli=1000, most_milli=1000)], 1, id="the larger of idle pods"),
        pytest.param(1.0, [known("a", [0.9]), known("b", accepting=False)], 0, id="never one that drains"),
        pytest.param(1.0, [known("a", [0.9]), replace(known("b"), ejected=True)], 0, id="nor one that failed"),
        pytest.param(
            1.0,
            [replace(known("a"), outstanding=2), replace(known("b", [0.9] * 9), lag_s=5.0, outstanding=1)],
            1,
            id="late reports count for nothing",
        ),
        pytest.param(
            1.0,
            [known("a"), replace(known("b"), sent=[Sent(n, NOW, NOW + 1.0) for n in range(3)])],
            0,
            id="what was sent",
        ),
    ],
)
def test_best_fit(slack_s: float, pods: list[PodView], best: int) -> None:
    assert chosen("best-fit", pods, slack_s, Random(1).random) == best


def test_the_front_does_not_believe_that_its_requests_are_gone() -> None:
    table = PodTable("front-1", RULES["in-turn"].make(Random(1).random))
    table.keep(("a",))
    for number in range(3):
        table.choose(NOW, request(number=number))
    running = [RunningBatch(requests=1, threads=1, left_s=0.1, slack_s=0.9)]
    table.reported("a", load(running=running, received={"front-1": 3}), NOW + 0.1)
    (view,) = table.views(NOW + 0.1)
    assert [sent.number for sent in view.sent] == [2, 3]


def test_reports_that_do_not_include_what_was_sent_long_ago_are_late() -> None:
    table = PodTable("front-1", RULES["in-turn"].make(Random(1).random))
    table.keep(("a",))
    table.choose(NOW, request())
    table.reported("a", load(), NOW + 0.4)
    (view,) = table.views(NOW + 0.5)
    assert (view.lag_s, view.made_at) == (pytest.approx(0.5), NOW)
    table.reported("a", load(received={"front-1": 1}), NOW + 0.6)
    (view,) = table.views(NOW + 0.6)
    assert 0.3 < view.lag_s < 0.4  # not forgotten at once: who sends nothing cannot tell
    assert table.reporting(NOW + 0.5) == 1


def ejected(table: PodTable, now: float) -> list[str]:
    return [view.name for view in table.views(now) if view.ejected]


def test_a_pod_is_avoided_while_it_neither_reports_nor_answers() -> None:
    table = PodTable("front-1", RULES["in-turn"].make(Random(1).random))
    table.keep(("a", "b"))
    sent_to = table.choose(NOW, request(slack_s=9.0))
    assert sent_to is not None
    assert ejected(table, NOW + 1.0) == []
    assert ejected(table, NOW + 2.0) == ["a"]
    table.reported("a", load(received={"front-1": 1}), NOW + 2.0)
    assert ejected(table, NOW + 2.5) == []
    assert ejected(table, NOW + 4.0) == ["a"]
    table.ended(sent_to, "answered", NOW + 4.0)
    assert ejected(table, NOW + 4.0) == []


def test_a_pod_without_answers_long_after_their_deadlines_has_failed() -> None:
    table = PodTable("front-1", RULES["in-turn"].make(Random(1).random))
    table.keep(("a",))
    for number in range(2):
        table.choose(NOW, request(number=number))
    table.reported("a", load(received={"front-1": 2}), NOW + 1.4)
    assert ejected(table, NOW + 1.4) == []
    table.reported("a", load(received={"front-1": 2}), NOW + 1.6)
    assert ejected(table, NOW + 1.6) == ["a"]
