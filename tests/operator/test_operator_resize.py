"""The resize state machine: one file for each case in data/resize, and properties of all cases."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sponge_operator.autoscale import resize

CASES = sorted((Path(__file__).parent / "data" / "resize").glob("*.yaml"))
STATES = st.one_of(
    st.builds(resize.Idle, st.integers(10, 16000)),
    st.builds(resize.InFlight, st.integers(10, 16000), st.integers(10, 16000)),
    st.builds(
        resize.Deferred,
        st.integers(10, 16000),
        st.integers(10, 16000),
        st.just("no room"),
        st.one_of(st.none(), st.integers(0, 16000)),
    ),
    st.builds(resize.Infeasible, st.integers(10, 16000), st.integers(10, 16000), st.just("never")),
    st.builds(resize.Failed, st.integers(10, 16000), st.integers(10, 16000), st.just("error")),
    st.just(resize.NotResizable("NotRunning", "not yet")),
)
TARGETS = st.integers(10, 16000)


def named(value: Any) -> dict[str, Any]:
    return {type(value).__name__: asdict(value)}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_case(path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    observed = resize.observe(case["pod"], "server", case["quota_milli"])
    assert named(observed) == case["observed"], case["why"]
    action = resize.step(observed, case["target_milli"], resize.History(**case["history"]), case["now"])
    assert named(action) == case["action"], case["why"]


@given(spec=TARGETS, actual=TARGETS, target=TARGETS, age=st.floats(0, resize.STUCK_S * 0.99), resends=st.integers(0, 9))
def test_nothing_is_sent_while_a_resize_is_in_progress(
    spec: int, actual: int, target: int, age: float, resends: int
) -> None:
    history = resize.History(patched_at=100.0 - age, resends=resends)
    assert resize.step(resize.InFlight(spec, actual), target, history, 100.0) == resize.Nothing("InFlight")


@given(spec=TARGETS, actual=TARGETS, target=TARGETS, resends=st.integers(0, 40))
def test_a_stuck_resize_is_sent_again_with_another_size(spec: int, actual: int, target: int, resends: int) -> None:
    history = resize.History(patched_at=0.0, resends=resends)
    action = resize.step(resize.InFlight(spec, actual), target, history, resize.MAX_STUCK_S)
    assert isinstance(action, resize.Patch)
    assert action.again
    assert action.milli != spec


@given(state=STATES, target=TARGETS, now=st.floats(0, 1000))
def test_a_refused_resize_is_always_taken_back(state: resize.Observed, target: int, now: float) -> None:
    action = resize.step(state, target, resize.History(), now)
    if isinstance(state, resize.Deferred | resize.Infeasible | resize.Failed):
        assert isinstance(action, resize.Revert)
        assert action.milli == state.actual_milli
        assert action.ceiling_milli >= state.actual_milli
        history = resize.record(resize.History(), action, now)
        assert resize.expire(history, now).ceiling_milli == action.ceiling_milli
        assert resize.expire(history, now + action.for_s).ceiling_milli is None


@given(target=TARGETS, milli=TARGETS)
def test_a_settled_size_causes_no_patch(target: int, milli: int) -> None:
    action = resize.step(resize.Idle(milli), target, resize.History(), 0.0)
    assert action == (resize.Nothing("Settled") if milli == target else resize.Patch(target))


@given(state=STATES, target=TARGETS)
def test_every_patch_is_recorded(state: resize.Observed, target: int) -> None:
    action = resize.step(state, target, resize.History(), 50.0)
    history = resize.record(resize.History(), action, 50.0)
    assert (history.patched_at == 50.0) == isinstance(action, resize.Patch | resize.Revert)


CAPACITY = "node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            403,
            {"message": CAPACITY, "details": {"causes": [{"reason": "NodeCapacity"}]}},
            resize.LowerCeiling(2000, resize.INFEASIBLE_S, CAPACITY),
        ),
        (
            403,
            {"message": "no room", "details": {"causes": [{"reason": "NodeCapacity"}]}},
            resize.LowerCeiling(1000, resize.INFEASIBLE_S, "no room"),
        ),
        (
            403,
            {"message": "exceeded quota: team"},
            resize.LowerCeiling(1000, resize.CEILING_S, "exceeded quota: team"),
        ),
        (
            403,
            {"message": CAPACITY.replace("2000", "4000"), "details": {"causes": [{"reason": "NodeCapacity"}]}},
            resize.LowerCeiling(1000, resize.INFEASIBLE_S, CAPACITY.replace("2000", "4000")),
        ),
        (403, {"message": "User cannot patch"}, resize.StayQuiet(resize.REFUSED_S, "User cannot patch")),
        (422, {"message": "invalid"}, resize.StayQuiet(resize.REFUSED_S, "invalid")),
        (503, {}, resize.StayQuiet(1.0, "")),
        (0, {"message": "refused"}, resize.StayQuiet(1.0, "refused")),
    ],
)
def test_the_consequence_of_a_refusal(status: int, body: dict[str, Any], expected: object) -> None:
    assert resize.refused(status, body, 3000, 1000) == expected
