"""The search for the smallest size without a miss: cases by hand, then invariants."""

from __future__ import annotations

from hypothesis import given, settings
from projection_states import LIMITS, MODEL, SIZES, state, states

from sponge_core.control_api import FrontierPoint
from sponge_core.dispatch.decision import Limits
from sponge_core.planning.frontier import project_frontier
from sponge_core.planning.projection import ProjectionInput, project


def test_nothing_to_do_is_met_by_the_smallest_size() -> None:
    frontier = project_frontier(state(cores=4.0), SIZES, [MODEL], LIMITS)
    assert frontier.points[0] == FrontierPoint(cores_milli=1000, batch_cap=8, misses=0)
    assert not frontier.urgent


def test_in_overload_every_size_misses_and_the_largest_is_offered() -> None:
    flood = state(queued=tuple([0.2] * 60))
    found = project_frontier(flood, SIZES, [MODEL], LIMITS)
    assert found.points[-1].cores_milli == 4000
    assert all(p.misses > 0 for p in found.points)


@settings(max_examples=60)
@given(states())
def test_the_frontier_holds_the_size_with_the_fewest_misses_that_it_tried(here: ProjectionInput) -> None:
    found = project_frontier(here, SIZES, [MODEL], LIMITS)
    sizes = [p.cores_milli for p in found.points]
    assert sizes == sorted(set(sizes))
    fewest = min(p.misses for p in found.points)
    if fewest > 0:
        assert round(1000 * here.cores) in sizes
        assert sizes[-1] == SIZES[-1], "nobody is told that it cannot be done before the largest was tried"
    chosen = next(p for p in found.points if p.misses == fewest)
    assert project(here, chosen.cores_milli / 1000, [MODEL], Limits(chosen.batch_cap, 4, 4.0)).misses == fewest


@settings(max_examples=60)
@given(states())
def test_uncounted_misses_are_still_misses(here: ProjectionInput) -> None:
    counted = project_frontier(here, SIZES, [MODEL], LIMITS)
    found = project_frontier(here, SIZES, [MODEL], LIMITS, counted=False)
    if all(p.misses for p in counted.points):
        assert found == counted
    else:
        assert found.urgent == counted.urgent
        assert [(p.cores_milli, p.misses > 0) for p in found.points] == [
            (p.cores_milli, p.misses > 0) for p in counted.points
        ]
