"""The replay of a pod from its report follows the pod's own rule, and what was sent there leaves no more room."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.control_api import LatencyCoefficients
from sponge_core.latency import LatencyModel
from sponge_core.routing.pod_load import PodLoad, RunningBatch
from sponge_core.routing.pod_replay import UNSURE_S, PodReplay

NOW = 50.0
MODEL = LatencyModel(0.012, 0.003, 0.0, 0.01, max_batch=8)
slacks = st.lists(st.floats(-0.5, 3.0), max_size=12).map(sorted)
batches = st.builds(
    RunningBatch, requests=st.just(4), threads=st.just(1), left_s=st.floats(0, 0.3), slack_s=st.floats(0, 1)
)


def replay(slacks: Sequence[float] = (), running: Sequence[RunningBatch] = (), cores_milli: int = 500) -> PodReplay:
    load = PodLoad(
        now_s=1.0,
        accepting=True,
        cores_milli=cores_milli,
        most_milli=cores_milli,
        batch_cap=8,
        lanes=2,
        slack_s=list(slacks),
        had_s=[max(1.0, slack) for slack in slacks],
        running=list(running),
        latency=LatencyCoefficients.of(MODEL),
    )
    model = load.model()
    assert model is not None
    return PodReplay(load, model, NOW)


def test_an_idle_pod_answers_one_request_in_its_own_time() -> None:
    outlook = replay(cores_milli=1000).outlook(NOW + 1.0)
    took_s = MODEL.latency(1, 1)
    assert outlook == (0, pytest.approx(took_s), pytest.approx((1.0 - took_s) / (took_s + UNSURE_S)))


def test_an_idle_pod_has_any_margin() -> None:
    assert replay().outlook() == (0, math.inf, math.inf)


@given(slacks)
def test_a_request_leaves_no_more_margin_than_there_was(slacks: list[float]) -> None:
    pod = replay([slack + 20.0 for slack in slacks])
    assert pod.outlook(NOW + 15.0).margin <= pod.outlook().margin


def test_half_a_core_takes_twice_as_long() -> None:
    assert replay().outlook(NOW + 1.0).own_s == pytest.approx(2 * MODEL.latency(1, 1))


def test_a_request_joins_the_batch_of_those_that_wait() -> None:
    assert replay([1.0] * 3).outlook(NOW + 1.0).own_s == pytest.approx(2 * MODEL.latency(4, 1))


def test_what_cannot_be_met_is_missed() -> None:
    outlook = replay().outlook(NOW + 0.01)
    assert (outlook.misses, outlook.own_s) == (1, math.inf)


def test_a_running_batch_ends_first() -> None:
    running = [RunningBatch(requests=8, threads=1, left_s=0.1, slack_s=1.0)]
    assert replay((), running).outlook(NOW + 1.0).own_s == pytest.approx(0.2 + 2 * MODEL.latency(1, 1))


def test_an_advance_by_parts_is_one_advance() -> None:
    once, in_parts = replay([0.8] * 12), replay([0.8] * 12)
    once.advance(NOW + 0.3)
    for at in (0.1, 0.15, 0.3):
        in_parts.advance(NOW + at)
    assert once.outlook() == pytest.approx(in_parts.outlook())


@given(slacks, st.lists(batches, max_size=1), st.sampled_from((500, 1000, 2000)), st.floats(0, 1))
def test_one_more_request_never_ends_the_work_sooner_than_it_takes(
    slacks: list[float], running: list[RunningBatch], cores_milli: int, later_s: float
) -> None:
    pod = replay(slacks, running, cores_milli)
    pod.advance(NOW + later_s)
    without, also = pod.outlook(), pod.outlook(NOW + later_s + 2.0)
    assert 0 <= without.misses <= len(slacks) + len(running)
    assert also.own_s >= MODEL.latency(1, 2)
    assert pod.outlook() == without  # a look changes nothing


@given(slacks, st.lists(batches, max_size=1), st.floats(0, 0.5), st.integers(0, 4))
def test_a_pod_to_which_more_was_sent_has_no_more_room(
    slacks: list[float], running: list[RunningBatch], later_s: float, sent: int
) -> None:
    """With patient requests, so that none is shed and the work is what was sent."""
    slacks = [slack + 20.0 for slack in slacks]
    less, more = replay(slacks, running), replay(slacks, running)
    for _ in range(sent):
        more.arrive(NOW, NOW + 25.0)
    less.advance(NOW + later_s)
    more.advance(NOW + later_s)
    # Due last, so it is answered last.
    assert more.outlook(NOW + 30.0).own_s >= less.outlook(NOW + 30.0).own_s - 1e-9
