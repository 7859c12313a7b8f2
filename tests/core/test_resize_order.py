"""The order of quota and thread budget in a resize."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.planning.resize_order import Step, next_step


@pytest.mark.parametrize(
    ("quota", "target", "acknowledged", "due"),
    [
        pytest.param(500, 1250, False, Step.QUOTA, id="a grow begins with the quota"),
        pytest.param(1250, 1250, False, Step.BUDGET, id="and ends with the budget"),
        pytest.param(1250, 500, False, Step.BUDGET, id="a shrink begins with the budget"),
        pytest.param(1250, 500, True, Step.QUOTA, id="and ends with the quota"),
        pytest.param(500, 1250, True, Step.QUOTA, id="a grow whose budget is known needs the quota alone"),
        pytest.param(500, 500, True, None, id="complete"),
    ],
)
def test_the_step_that_is_due(quota: float, target: float, acknowledged: bool, due: Step | None) -> None:
    assert next_step(quota, target, acknowledged) is due


@given(st.integers(1, 64), st.integers(1, 64))
def test_the_budget_never_exceeds_the_quota_and_every_resize_ends(start: int, target: int) -> None:
    quota, budget, acknowledged = start, start, False
    for _ in range(3):
        step = next_step(quota, target, acknowledged)
        if step is None:
            break
        if step is Step.QUOTA:
            quota = target
        else:
            budget, acknowledged = target, True
        assert budget <= quota
    assert (quota, budget, acknowledged) == (target, target, True)
    assert next_step(quota, target, acknowledged) is None
