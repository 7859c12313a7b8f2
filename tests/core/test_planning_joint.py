"""The joint plan against brute force, and its behaviour with room for all, for none, or without time."""

from __future__ import annotations

import time
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sponge_core.control_api import FrontierPoint
from sponge_core.planning.joint import Claim, JointPlan, every_size, plan_jointly

PATIENT_S = 60.0


def claim(*misses: float, current: int = 1000, weight: float = 1.0) -> Claim:
    """Misses at 1, 2, 3, ... cores."""
    points = [FrontierPoint(cores_milli=1000 * c, batch_cap=4, misses=m) for c, m in enumerate(misses, start=1)]
    return Claim(points, current, weight)


def plan(claims: list[Claim], cores: int, limit_s: float = PATIENT_S) -> JointPlan:
    return plan_jointly(claims, 1000 * cores, time.monotonic, limit_s)


def sizes(made: JointPlan) -> list[int]:
    return [point.cores_milli // 1000 for point in made.points]


def test_each_gets_what_it_needs_alone_where_there_is_room() -> None:
    made = plan([claim(4, 0, 0), claim(9, 5, 0)], 5)
    assert (sizes(made), made.how) == ([2, 3], "apart")


def test_cores_go_where_they_save_the_most_misses() -> None:
    assert sizes(plan([claim(10, 2, 0), claim(10, 8, 7)], 4)) == [3, 1]


def test_a_weighty_service_goes_first() -> None:
    assert sizes(plan([claim(10, 2), claim(10, 8, weight=5.0)], 3)) == [1, 2]


def test_no_core_is_given_that_saves_nothing() -> None:
    made = plan([claim(3, 3, 3), claim(5, 4, 0)], 4)
    assert (sizes(made), made.cores_milli) == ([1, 3], 4000)


def test_among_equals_the_one_that_changes_less() -> None:
    first, second = claim(5, 0, current=1000), claim(5, 0, current=2000)
    assert sizes(plan([first, second], 3)) == [1, 2]
    assert sizes(plan([second, first], 3)) == [2, 1]


def test_too_small_a_node_is_said_not_hidden() -> None:
    made = plan([claim(1, 0), claim(1, 0), claim(1, 0)], 2)
    assert (sizes(made), made.how) == ([1, 1, 1], "smallest")


def test_without_time_the_greedy_rule_still_fits_the_node() -> None:
    made = plan([claim(10, 2, 0), claim(10, 8, 7), claim(6, 5, 0)], 6, limit_s=0.0)
    assert (sizes(made), made.how) == ([2, 1, 3], "greedy")


@given(
    st.dictionaries(st.integers(1, 16), st.integers(0, 30), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(0, 60),
)
def test_sizes_that_nobody_projected_lie_between_those_that_were(
    tried: dict[int, int], step: int, requests: int
) -> None:
    falling = sorted(tried.values(), reverse=True)
    points = [
        FrontierPoint(cores_milli=1000 * cores, batch_cap=4, misses=misses)
        for cores, misses in zip(sorted(tried), falling, strict=True)
    ]
    filled = every_size(points, range(1000, 17_000, 1000 * step), requests)
    assert set(points) <= set(filled)
    assert [p.cores_milli for p in filled] == sorted({p.cores_milli for p in filled})
    misses = [p.misses for p in filled]
    assert all(more >= less - 1e-9 for more, less in pairwise(misses))
    assert misses[0] <= max(requests, falling[0])
    assert filled[-1] == points[-1]


claims_drawn = st.lists(
    st.builds(
        lambda misses, current, weight: claim(*misses, current=1000 * current, weight=weight),
        st.lists(st.integers(0, 20), min_size=1, max_size=4),
        st.integers(1, 4),
        st.sampled_from([1.0, 2.0, 3.5]),
    ),
    min_size=1,
    max_size=4,
)


def value(claims: list[Claim], points: tuple[FrontierPoint, ...]) -> tuple[float, int, int]:
    return (
        sum(c.weight * p.misses for c, p in zip(claims, points, strict=True)),
        sum(p.cores_milli for p in points),
        sum(c.current_milli != p.cores_milli for c, p in zip(claims, points, strict=True)),
    )


@settings(max_examples=60)
@given(claims_drawn, st.integers(1, 16))
def test_it_equals_brute_force(claims: list[Claim], cores: int) -> None:
    fitting = [
        points
        for points in product(*(c.points for c in claims))
        if sum(point.cores_milli for point in points) <= 1000 * cores
    ]
    made = plan(claims, cores)
    if not fitting:
        assert made.how == "smallest"
        return
    best = min(value(claims, points) for points in fitting)
    misses, used, changes = value(claims, made.points)
    assert (misses, used, changes) == (pytest.approx(best[0]), *best[1:])


@settings(max_examples=60)
@given(claims_drawn, st.integers(1, 16))
def test_the_greedy_rule_never_exceeds_the_node_nor_beats_the_program(claims: list[Claim], cores: int) -> None:
    hasty, patient = plan(claims, cores, limit_s=0.0), plan(claims, cores)
    assert (hasty.how == "smallest") == (patient.how == "smallest")
    if hasty.how != "smallest":
        assert hasty.cores_milli <= 1000 * cores
        assert value(claims, hasty.points)[0] >= value(claims, patient.points)[0] - 1e-6
