"""Forecast and projection of requests that differ in size."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.cpu_sharing import Running
from sponge_core.dispatch.decision import Limits
from sponge_core.forecast import Arrival, Forecaster
from sponge_core.latency import LatencyModel, SizeCurve
from sponge_core.planning.frontier import project_frontier
from sponge_core.planning.projection import ProjectionInput, project

Join = Literal["padded", "ragged", "alike"]
JOINS = st.sampled_from(get_args(Join))

PLAIN = LatencyModel(gamma=0.04, delta=0.01, epsilon=0.005, eta=0.004, error=0.1)
SIZES_MILLI = (1000, 2000, 3000, 4000, 6000, 8000)
LIMITS = Limits(8, 8, 8.0)

deadline_lists = st.lists(st.floats(0.01, 1.5), max_size=12).map(sorted)
arrival_lists = st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.05, 1.0)), max_size=20).map(sorted)


def sized(size: float, join: Join = "padded") -> LatencyModel:
    """`PLAIN` for rows of this size; a row of another size has proportional work."""
    return replace(PLAIN, sizes=SizeCurve((0.0, 1.0 / size, 0.0), (0.0, 1.0 / size, 0.0), join))


def needed(given: ProjectionInput, model: LatencyModel) -> float:
    """The smallest size without a miss; infinite if there is none."""
    points = project_frontier(given, SIZES_MILLI, [model], LIMITS).points
    return min((point.cores_milli for point in points if point.misses == 0), default=float("inf"))


@given(
    deadlines=deadline_lists,
    coming=arrival_lists,
    cores=st.sampled_from([1.0, 2.0, 4.0]),
    wanted=st.sampled_from([1.0, 2.5, 4.0]),
    join=JOINS,
    sacrifice=st.booleans(),
)
def test_with_one_size_the_projection_is_the_old_one(
    deadlines: list[float],
    coming: list[tuple[float, float]],
    cores: float,
    wanted: float,
    join: Join,
    sacrifice: bool,
) -> None:
    running = (Running(1, 0.05, 0.4),)
    arrivals = [Arrival(at, at + left, 0, 64.0) for at, left in coming]
    slos = [[deadline + 0.1 for deadline in deadlines]]
    plain = ProjectionInput(0.0, [deadlines], running, arrivals, cores, 0.03, 0.0, slos)
    given = replace(plain, sizes=[[64.0] * len(deadlines)])
    ours = project(given, wanted, [sized(64.0, join)], LIMITS, sacrifice=sacrifice)
    theirs = project(plain, wanted, [PLAIN], LIMITS, sacrifice=sacrifice)
    assert (ours.misses, ours.largest_batch) == (theirs.misses, theirs.largest_batch)
    assert ours.longest_s == pytest.approx(theirs.longest_s)
    assert needed(given, sized(64.0, join)) == needed(plain, PLAIN)


def test_the_size_of_the_service_follows_the_sizes_of_the_requests() -> None:
    # 20 requests in a second, due after 300 ms; at size 10 each takes 59 ms alone, at size 40 0.2 s.
    found = []
    for size in (10.0, 20.0, 40.0):
        arrivals = [Arrival(i / 20, i / 20 + 0.3, 0, size) for i in range(20)]
        found.append(needed(ProjectionInput(0.0, [[]], (), arrivals, 1.0, 0.03, sizes=[[]]), sized(10.0)))
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_a_waiting_long_request_that_nothing_can_answer_in_time_does_not_count() -> None:
    # Alone on 8 threads a row of size 100 takes 0.1 s of its parallel part alone; one of size 10 takes 19 ms.
    given = ProjectionInput(0.0, [[0.09, 0.095]], (), (), 8.0, 0.0, sizes=[[100.0, 10.0]])
    assert project(given, 8.0, [sized(10.0)], LIMITS).misses == 0


def test_the_forecast_keeps_remaining_slo_and_size_together() -> None:
    forecaster = Forecaster()
    seen = {(0.2, 12.0), (1.0, 380.0)}
    for number in range(100):
        left, size = sorted(seen)[number % 2]
        forecaster.observe(number / 50, left, size=size)
    arrivals = forecaster.forecast(2.0, 1.0)
    assert {(round(arrival.deadline - arrival.at, 6), arrival.size) for arrival in arrivals} == seen
    long = sum(arrival.size == 380.0 for arrival in arrivals)
    assert 0.4 <= long / len(arrivals) <= 0.6
