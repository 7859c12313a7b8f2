"""The resize state machine: one file for each case in data/resize, and properties of all cases."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sponge_operator.autoscale import quota_state, resize
from sponge_operator.autoscale.ceiling import BUSY, POLICY, Bound, Wait

CASES = sorted((Path(__file__).parent / "data" / "resize").glob("*.yaml"))
STATES = st.one_of(
    st.builds(quota_state.Idle, st.integers(10, 16000)),
    st.builds(quota_state.InFlight, st.integers(10, 16000), st.integers(10, 16000)),
    st.builds(
        quota_state.Deferred,
        st.integers(10, 16000),
        st.integers(10, 16000),
        st.one_of(
            st.just("no room"),
            st.integers(0, 16000).map(lambda room: f"cpu, requested: 16000, used: {16000 - room}, capacity: 16000"),
        ),
    ),
    st.builds(quota_state.Infeasible, st.integers(10, 16000), st.integers(10, 16000), st.just("never")),
    st.builds(quota_state.Failed, st.integers(10, 16000), st.integers(10, 16000), st.just("error")),
    st.just(quota_state.NotResizable("NotRunning", "not yet")),
)
TARGETS = st.integers(10, 16000)


def moves(state: quota_state.Observed) -> bool:
    """A refused size differs from the one in force."""
    refused = isinstance(state, quota_state.Deferred | quota_state.Infeasible | quota_state.Failed)
    return not refused or getattr(state, "spec_milli", 0) != getattr(state, "actual_milli", 0)


def named(value: Any) -> dict[str, Any]:
    return {type(value).__name__: asdict(value)}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    observed = quota_state.observe(case["pod"], "server", case["quota_milli"])
    assert named(observed) == case["observed"], case["why"]
    action = resize.step(observed, case["target_milli"], resize.History(**case["history"]), case["now"])
    assert named(action) == case["action"], case["why"]


@given(spec=TARGETS, actual=TARGETS, target=TARGETS, age=st.floats(0, resize.STUCK_S * 0.99), resends=st.integers(0, 9))
def test_nothing_is_sent_while_a_resize_is_in_progress(
    spec: int, actual: int, target: int, age: float, resends: int
) -> None:
    history = resize.History(patched_at=100.0 - age, resends=resends)
    assert resize.step(quota_state.InFlight(spec, actual), target, history, 100.0) == resize.Nothing("InFlight")


@given(spec=TARGETS, actual=TARGETS, target=TARGETS, resends=st.integers(0, 40))
def test_a_stuck_resize_is_sent_again_with_another_size(spec: int, actual: int, target: int, resends: int) -> None:
    history = resize.History(patched_at=0.0, resends=resends)
    action = resize.step(quota_state.InFlight(spec, actual), target, history, resize.MAX_STUCK_S)
    assert isinstance(action, resize.Patch)
    assert action.resends == resends + 1
    assert action.milli == target
    assert action.reminds == (target == spec)


def test_a_kubelet_that_comes_back_is_asked_at_once_and_then_less_and_less_often() -> None:
    history, now, sent = resize.History(), 0.0, []
    away, back = quota_state.InFlight(1000, 500), quota_state.InFlight(1000, 500, overlooked=True)
    for observed, until in ((away, 20.0), (back, 60.0)):
        while now < until:
            action = resize.step(observed, 1000, history, now)
            if isinstance(action, resize.Patch):
                history = resize.record(history, action, now)
                sent.append(now)
            now += 1.0
    assert sent == [0.0, 4.0, 12.0, 20.0, 24.0, 32.0, 48.0]


@given(state=STATES.filter(moves), target=TARGETS, now=st.floats(0, 1000))
def test_a_refused_resize_is_always_taken_back(state: quota_state.Observed, target: int, now: float) -> None:
    action = resize.step(state, target, resize.History(), now)
    if isinstance(state, quota_state.Deferred | quota_state.Infeasible | quota_state.Failed):
        assert isinstance(action, resize.Revert)
        assert action.milli == state.actual_milli
        history = resize.record(resize.History(), action, now)
        held = history.ceiling or history.floor
        assert held is not None
        assert held.forbids(state.spec_milli)
        assert state.spec_milli < state.actual_milli or not held.forbids(state.actual_milli)
        assert history.blocked is not None
        edges = (history.ceiling_milli, history.floor_milli)
        assert any(edge(now, state.actual_milli, 125) is not None for edge in edges)
        assert all(edge(held.until, state.actual_milli, 125) is None for edge in edges)


@given(target=TARGETS, milli=TARGETS)
def test_a_settled_size_causes_no_patch(target: int, milli: int) -> None:
    action = resize.step(quota_state.Idle(milli), target, resize.History(), 0.0)
    assert action == (resize.Nothing("Settled") if milli == target else resize.Patch(target))


@given(state=STATES, target=TARGETS)
def test_every_patch_is_recorded(state: quota_state.Observed, target: int) -> None:
    action = resize.step(state, target, resize.History(), 50.0)
    history = resize.record(resize.History(), action, 50.0)
    assert (history.patched_at == 50.0) == isinstance(action, resize.Patch | resize.Revert)


def test_a_size_that_was_refused_is_not_sent_whoever_decides_on_it() -> None:
    bound = Bound("LimitRange", "at most 500m", refused_milli=1500, hold=POLICY, figure_milli=500)
    history = resize.refuse(resize.History(), bound, now=10.0)
    for target, action in (
        (500, resize.Patch(500)),
        (625, resize.Nothing("Refused")),
        (250, resize.Nothing("Settled")),
    ):
        assert resize.step(quota_state.Idle(250), target, history, 11.0) == action
    assert resize.step(quota_state.Idle(250), 625, history, 12.0) == resize.Patch(625)


def test_the_same_refusal_holds_longer_each_time_and_is_forgotten_after_a_while() -> None:
    bound = Bound("QuotaExceeded", "one core", refused_milli=1500, hold=POLICY, figure_milli=1000)
    history, now, holds = resize.History(), 0.0, []
    for _ in range(5):
        history = resize.refuse(history, bound, now)
        assert history.ceiling is not None
        holds.append(history.ceiling.until - now)
        now = history.ceiling.until + 0.1
    assert holds == pytest.approx([2.0, 4.0, 8.0, 10.0, 10.0])
    later = resize.refuse(history, bound, now + resize.FORGET_S)
    assert later.ceiling is not None
    assert later.ceiling.until == pytest.approx(now + resize.FORGET_S + 2.0)


def test_waits_grow_keep_to_retry_after_and_end_with_success() -> None:
    busy = Wait("ApiServerBusy", "starting", BUSY)
    history, waits = resize.History(), []
    for _ in range(8):
        history = resize.refuse(history, busy, now=100.0)
        waits.append(round(history.quiet_until - 100.0, 3))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert resize.step(quota_state.Idle(250), 500, history, 104.9) == resize.Nothing("Refused")
    assert resize.refuse(history, replace(busy, retry_after_s=30.0), 100.0, jitter=0.2).quiet_until == 136.0
    done = resize.actuated(history, 250, 500, 106.0, 0.05)
    assert (done.failures, done.quiet_until, done.blocked) == (0, 0.0, None)


def test_a_refusal_is_shown_while_it_matters() -> None:
    bound = Bound("LimitRange", "at most 500m", refused_milli=1500, hold=POLICY, figure_milli=500)
    history = resize.actuated(resize.refuse(resize.History(), bound, now=0.0), 250, 500, 0.1, 0.05)
    assert history.blocked == resize.Blocked("LimitRange", "at most 500m")
    history = resize.unless_unwanted(history, 10.0, wants=True)
    assert resize.unless_unwanted(history, 14.9, wants=False).blocked is not None
    gone = resize.unless_unwanted(history, 15.0, wants=False)
    assert gone.blocked is None
    assert resize.unless_unwanted(gone, 16.0, wants=True, bounded_by=gone.ceiling).blocked == history.blocked
    # A larger size in force proves that the bound is gone.
    assert resize.actuated(history, 500, 1500, 20.0, 0.05).ceiling is None
    assert resize.actuated(history, 500, 1500, 20.0, 0.05).blocked is None


def test_a_resize_is_overdue_by_what_is_usual_here() -> None:
    history = resize.History()
    assert history.overdue_s == resize.STUCK_S
    for took_s in (0.05, 0.9, 0.05, 0.05, 0.9, 0.04):
        history = resize.actuated(history, 500, 1000, 1.0, took_s)
    assert 0.1 <= history.overdue_s <= 0.25
    for _ in range(20):
        history = resize.actuated(history, 500, 1000, 1.0, 1.5)
    assert history.overdue_s == resize.STUCK_S
