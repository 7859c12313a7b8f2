"""The dispatch policies: invariants of all, then the particulars of each."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.cpu_sharing import Running, thread_budget
from sponge_core.dispatch.decision import Decision, DispatchState, Limits
from sponge_core.dispatch.policies.clipper import Clipper
from sponge_core.dispatch.registry import DEFAULT, POLICIES, PolicyName
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.latency import LatencyModel
from sponge_simulator.ablation import VARIANTS

# 100 ms an item on one thread, of which 80 parallel; 10 ms fixed.
MODEL = LatencyModel(gamma=0.08, delta=0.02, epsilon=0.0, eta=0.01)
SMALL = LatencyModel(gamma=0.02, delta=0.01, epsilon=0.01, eta=0.005, error=0.1, max_batch=3)
LIMITS = Limits(batch_cap=4, lanes=4, max_cores=4.0)
ALL = POLICIES | VARIANTS
BY_ARRIVAL = {"fifo", "triton-like", "clipper", "bentoml-like", "packrat"}
BY_DEADLINE = set(ALL) - BY_ARRIVAL

running_lists = st.lists(
    st.builds(Running, threads=st.integers(1, 3), left_s=st.floats(0, 0.5), deadline=st.floats(0, 2)), max_size=3
)
waiting_lists = st.lists(
    # Few deadlines, so that ties happen; arrival in the order of the ids.
    st.tuples(st.floats(0.0, 1.0), st.sampled_from([0.05, 0.2, 0.5, 1.0]), st.integers(0, 1)),
    max_size=25,
)


def decide(
    policy: str, queue: EdfQueue, running: tuple[Running, ...] = (), cores: float = 4.0, now: float = 1.0
) -> Decision:
    return ALL[policy].make().decide(DispatchState(now, queue, running, cores, [MODEL, SMALL], LIMITS))


def waiting(rows: list[tuple[float, float, int]]) -> EdfQueue:
    """(arrival, SLO, model) of each."""
    return EdfQueue(Request(i, at, at + slo, at, model=model) for i, (at, slo, model) in enumerate(sorted(rows)))


@pytest.mark.parametrize("policy", ALL)
@given(rows=waiting_lists, running=running_lists, cores=st.floats(0.3, 6), lanes=st.integers(1, 5))
def test_no_policy_breaks_a_rule_of_the_house(
    policy: str, rows: list[tuple[float, float, int]], running: list[Running], cores: float, lanes: int
) -> None:
    queue, now = waiting(rows), 1.0
    before = list(queue)
    limits = Limits(4, lanes, max(cores, 4.0))
    made = ALL[policy].make().decide(DispatchState(now, queue, running, cores, [MODEL, SMALL], limits))
    assert list(queue) == before, "the queue is read, not changed"
    touched = [r.id for launch in made.launches for r in launch.requests] + [s.request.id for s in made.sheds]
    assert len(touched) == len(set(touched)), "a request has one fate"
    busy = sum(batch.threads for batch in running)
    assert sum(launch.threads for launch in made.launches) <= max(0, thread_budget(cores) - busy)
    assert len(made.launches) <= max(0, lanes - len(running))
    for launch in made.launches:
        models = {request.model for request in launch.requests}
        assert len(models) == 1, "a batch is of one model"
        assert 1 <= len(launch.requests) <= min(4, [MODEL, SMALL][models.pop()].max_batch)
        keys = [(r.deadline, r.id) if policy in BY_DEADLINE else (0.0, r.id) for r in launch.requests]
        assert keys == sorted(keys), "ties keep the order of arrival"
    if made.wake_at is not None:
        assert made.wake_at > now


def test_the_names_that_the_command_takes_are_the_registry_s() -> None:
    assert set(POLICIES) == set(get_args(PolicyName))


def test_first_come_is_first_served_where_it_is_promised() -> None:
    queue = EdfQueue([Request(0, 0.8, 9.0), *(Request(i, 0.8 + 0.02 * i, 2.0) for i in range(1, 6))])
    for policy in BY_ARRIVAL:
        assert decide(policy, queue).launches[0].requests[0].id == 0
    assert all(decide(policy, queue).launches[0].requests[0].id == 1 for policy in BY_DEADLINE)


def test_who_gives_up_what() -> None:
    hopeless = [Request(0, 0.9, 1.01)]  # 10 ms left; l(1, 4) = 50 ms
    expired = [Request(0, 0.1, 0.9)]
    given_up = {
        policy: tuple(bool(decide(policy, EdfQueue(requests)).sheds) for requests in (hopeless, expired))
        for policy in ALL
    }
    keeps_all = {"fifo", "clipper", "bentoml-like", "packrat", "edf-single-lane", "fixed batch, no shedding"}
    assert {policy for policy, shed in given_up.items() if shed == (False, False)} == keeps_all
    assert {policy for policy, shed in given_up.items() if shed == (False, True)} == {"triton-like"}


def test_triton_waits_for_a_full_batch_no_longer_than_its_delay() -> None:
    queue = EdfQueue([Request(0, 0.998, 9.0)])
    waits = decide("triton-like", queue)
    assert (waits.launches, waits.wake_at) == ((), pytest.approx(1.003))
    assert decide("triton-like", queue, now=1.003).launches
    full = EdfQueue(Request(i, 0.998, 9.0) for i in range(4))
    assert decide("triton-like", full).launches


def test_symphony_starts_when_one_more_would_be_too_late() -> None:
    queue = EdfQueue([Request(0, 0.9, 1.5)])
    waits = decide("symphony", queue)
    assert (waits.launches, waits.wake_at) == ((), pytest.approx(1.5 - MODEL.latency(2, 1)))
    assert decide("symphony", queue, now=1.5 - MODEL.latency(2, 1)).launches


def test_clipper_grows_by_one_and_shrinks_by_a_tenth() -> None:
    policy = Clipper()
    queue = EdfQueue(Request(i, 0.0, 9.0) for i in range(40))

    def size() -> int:
        return len(policy.decide(DispatchState(0.0, queue, (), 1.0, [MODEL], Limits(16, 1, 1.0))).launches[0].requests)

    assert size() == 1
    for expected in range(2, 11):
        policy.ended(0, size(), in_time=True)
        assert size() == expected
    policy.ended(0, size(), in_time=False)
    assert size() == 9
    policy.ended(0, 3, in_time=True)
    assert size() == 9, "a batch that was not full says nothing about a larger one"


def test_nexus_drops_the_head_that_would_break_the_batch() -> None:
    stale = [Request(0, 0.0, 1.15)]  # 150 ms left of 1150: alone it would do
    fresh = [Request(i, 0.9, 2.0) for i in range(1, 5)]
    assert not decide("nexus", EdfQueue(stale)).sheds
    made = decide("nexus", EdfQueue(stale + fresh), cores=1.0)
    assert [shed.request.id for shed in made.sheds] == [0]
    assert [request.id for request in made.launches[0].requests] == [1, 2, 3, 4]


@pytest.mark.parametrize(("due_in_s", "kept"), [(0.5, False), (0.55, True)])
def test_clockwork_refuses_ahead_whom_the_others_in_front_make_late(due_in_s: float, kept: bool) -> None:
    # On one core four take 410 ms, and the fifth 110 ms more.
    queue = EdfQueue([*(Request(i, 1.0, 1.45) for i in range(4)), Request(4, 1.0, 1.0 + due_in_s)])
    made = decide("clockwork", queue, cores=1.0)
    assert [request.id for request in made.launches[0].requests] == [0, 1, 2, 3]
    assert [shed.request.id for shed in made.sheds] == ([] if kept else [4])
    assert not decide("clockwork", queue, cores=2.0).sheds, "with a second lane it is in time"


def test_clockwork_takes_no_larger_batch_than_the_head_allows() -> None:
    queue = EdfQueue([Request(0, 1.0, 1.25), *(Request(i, 1.0, 9.0) for i in range(1, 5))])
    assert [request.id for request in decide("clockwork", queue, cores=1.0).launches[0].requests] == [0, 1]


@pytest.mark.parametrize(("behind", "dropped"), [(1, []), (2, [0])])
def test_bentoml_drops_the_oldest_by_what_all_that_wait_would_take(behind: int, dropped: list[int]) -> None:
    # 750 ms old; two take 210 ms, three 310 ms, and the bound is a second whatever the deadline.
    queue = EdfQueue([Request(0, 0.25, 9.0), *(Request(i, 1.0, 9.0) for i in range(1, behind + 1))])
    assert [shed.request.id for shed in decide("bentoml-like", queue).sheds] == dropped


def test_the_paper_s_server_runs_one_batch_on_all_cores() -> None:
    queue = EdfQueue(Request(i, 0.0, 9.0) for i in range(9))
    made = decide("edf-single-lane", queue)
    assert [(len(launch.requests), launch.threads) for launch in made.launches] == [(4, 4)]
    assert not decide("edf-single-lane", queue, running=(Running(1, 0.1, 9.0),)).launches


def test_the_variants_lack_what_they_say() -> None:
    tight = EdfQueue([Request(0, 0.9, 1.08)])  # 80 ms left: l(1, 1) = 110 ms, l(1, 2) = 70 ms
    assert decide(DEFAULT, tight).launches[0].threads == 2
    assert not decide("one thread", tight).launches
    loose = EdfQueue(Request(i, 0.9, 9.0) for i in range(9))
    assert len(decide(DEFAULT, loose).launches) == 3
    assert len(decide("one lane", loose).launches) == 1
