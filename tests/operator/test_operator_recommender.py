"""From a frontier to a size inside the range; the budget of resizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.control_api import FrontierPoint, SizeRange
from sponge_operator.autoscale.recommender import Recommender, sizes_within
from sponge_operator.autoscale.resize_budget import ResizeBudget
from sponge_operator.resources.model import CpuRange

SIZES = SizeRange(min_milli=250, max_milli=1500, step_milli=125)


def frontier(*points: tuple[int, float], cap: int = 8) -> list[FrontierPoint]:
    return [FrontierPoint(cores_milli=cores, batch_cap=cap, misses=misses) for cores, misses in points]


@pytest.mark.parametrize(
    ("current", "points", "sizes", "expected"),
    [
        pytest.param(500, frontier((500, 2), (1000, 0)), SIZES, (1000, True, "grow"), id="grows at once"),
        pytest.param(500, frontier((250, 2), (500, 0)), SIZES, (500, True, "hold"), id="holds what is needed"),
        pytest.param(500, frontier((500, 9), (1500, 4)), SIZES, (1500, False, "overload"), id="the best there is"),
        pytest.param(500, [], SIZES, (500, False, "no-frontier"), id="nothing known: keep"),
        pytest.param(2000, [], SIZES, (1500, False, "no-frontier"), id="nothing known, but out of the range"),
        pytest.param(
            500,
            frontier((500, 9), (1500, 0)),
            SizeRange(min_milli=250, max_milli=875, step_milli=125),
            (875, False, "ceiling"),
            id="the node has less than is needed",
        ),
        pytest.param(
            500,
            frontier((250, 0)),
            SizeRange(min_milli=500, max_milli=1500, step_milli=125),
            (500, True, "hold"),
            id="the server does not know the new range yet",
        ),
    ],
)
def test_decision(current: int, points: list[FrontierPoint], sizes: SizeRange, expected: tuple[int, bool, str]) -> None:
    recommended = Recommender(1.0).recommend(10.0, current, 8, points, sizes)
    assert (recommended.cores_milli, recommended.feasible, recommended.reason) == expected


def test_shrinks_only_after_the_look_back() -> None:
    recommender, idle = Recommender(1.0), frontier((250, 0))
    sizes = [recommender.recommend(now, 1000, 8, idle, SIZES).cores_milli for now in (0.0, 0.5, 0.9, 1.1)]
    assert sizes == [1000, 1000, 1000, 250]


@given(
    st.integers(1, 20_000),
    st.dictionaries(st.integers(1, 200).map(lambda n: n * 100), st.floats(0, 100), max_size=8),
    st.integers(1, 40),
    st.integers(0, 40),
)
def test_a_recommendation_is_never_outside_the_allowed_sizes(
    current: int, points: dict[int, float], low: int, steps: int
) -> None:
    sizes = SizeRange(min_milli=low * 100, max_milli=low * 100 + steps * 125, step_milli=125)
    recommended = Recommender(0.0).recommend(1.0, current, 8, frontier(*sorted(points.items())), sizes)
    assert sizes.min_milli <= recommended.cores_milli <= sizes.max_milli


@pytest.mark.parametrize(("ceiling", "largest"), [(None, 1500), (2000, 1500), (1100, 1000), (900, 875), (100, 250)])
def test_a_ceiling_is_rounded_down_to_an_allowed_size(ceiling: int | None, largest: int) -> None:
    cpu = CpuRange.model_validate({"min": "250m", "max": "1500m", "step": "125m"})
    assert sizes_within(cpu.sizes, None, ceiling) == SizeRange(min_milli=250, max_milli=largest, step_milli=125)


def test_shrinks_leave_room_for_grows() -> None:
    budget = ResizeBudget(per_s=5.0)
    now = 100.0
    shrinks = sum(budget.take(now, grows=False) for _ in range(20))
    grows = sum(budget.take(now, grows=True) for _ in range(20))
    assert (shrinks, grows) == (5, 5)
    assert not budget.take(now, grows=True)
    assert budget.take(now + 1.0, grows=True)


@given(st.floats(0.1, 50.0))
def test_a_stream_of_grows_does_not_starve_shrinks_and_the_rate_is_kept(per_s: float) -> None:
    budget, now, grown, shrunk = ResizeBudget(per_s), 0.0, 0, 0
    seconds = 200.0 / per_s
    while now < seconds:
        grown += budget.take(now, grows=True)
        shrunk += budget.take(now, grows=False)
        now += 0.2 / per_s
    assert shrunk >= 15
    assert grown >= 5 * shrunk
    assert grown + shrunk <= max(2.0, 2 * per_s) + 200 + 1
