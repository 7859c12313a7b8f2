"""The rules that choose a pod, and the table of what a front knows: no rule prefers a pod that takes no requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.edf_queue import Request
from sponge_core.routing.interface import PodView, Sent, candidates
from sponge_core.routing.pod_load import PodLoad, RunningBatch
from sponge_core.routing.pod_table import Choice, PodTable
from sponge_core.routing.registry import DEFAULT, RULES, RuleName

NOW = 100.0


def load(slacks: Sequence[float] = (), **changes: object) -> PodLoad:
    values = {"now_s": 5.0, "accepting": True, "cores_milli": 500, "most_milli": 500, "batch_cap": 8, "lanes": 1}
    return PodLoad.model_validate(values | {"slack_s": sorted(slacks)} | changes)


def request(slack_s: float = 1.0, number: int = 0) -> Request:
    return Request(number, NOW, NOW + slack_s, NOW)


slacks = st.lists(st.floats(-1, 5), max_size=10)
running = st.lists(
    st.builds(RunningBatch, threads=st.just(1), left_s=st.floats(0, 1), slack_s=st.floats(-1, 5)), max_size=2
)
loads = st.builds(
    lambda slacks, running, accepting, cores: load(slacks, running=running, accepting=accepting, cores_milli=cores),
    slacks,
    running,
    st.booleans(),
    st.sampled_from((500, 1000, 2000)),
)
sent = st.lists(st.floats(0, 1), max_size=5).map(
    lambda ages: [Sent(number, NOW - age, NOW - age + 1.0) for number, age in enumerate(sorted(ages, reverse=True))]
)
views = st.builds(
    lambda load, age, sent, ejected: PodView("", load, NOW - age, sent, len(sent), ejected),
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
        waits = 0 if pod.load is None else pod.load.waiting
        return {"in-turn": pod.name, "least-outstanding": pod.outstanding}.get(rule, len(pod.sent) + waits)

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
    view = next(view for view in table.views() if view.name == third.pod)
    assert (list(view.sent), view.outstanding) == ([], 2)
    table.ended(third, "answered", NOW + 0.2)
    table.ended(third, "answered", NOW + 0.2)
    assert sum(view.outstanding for view in table.views()) == 2


def test_a_pod_that_is_gone_is_forgotten() -> None:
    table = PodTable("front-1", RULES["in-turn"].make(Random(1).random))
    assert table.choose(NOW, request()) is None
    table.keep(("a", "b"))
    sent_to = table.choose(NOW, request())
    assert sent_to == Choice("a", 1)
    table.keep(("b",))
    table.ended(sent_to, "failed", NOW)
    table.reported("a", load(), NOW)
    assert [view.name for view in table.views()] == ["b"]


def test_a_load_says_how_many_wait_and_how_fast_it_is() -> None:
    assert load((0.1, 0.2), more=3).waiting == 5
    assert load().model() is None
    coefficients = {"gamma_s": 0.012, "delta_s": 0.003, "epsilon_s": 0.0, "eta_s": 0.01, "max_batch": 8}
    model = load(latency=coefficients, error=0.03, interference=0.02).model()
    assert model is not None
    assert (model.latency(8, 1), model.error, model.slowdown(1)) == (pytest.approx(0.13), 0.03, 1.02)
