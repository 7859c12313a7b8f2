"""The projection and the decision: hand-made situations, then invariants."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sponge_core.batching import Limits
from sponge_core.contract import FrontierPoint
from sponge_core.forecast import Arrival
from sponge_core.latency import LatencyModel
from sponge_core.planning.projected import Situation, SizeDecider, plan_steady, project, project_frontier
from sponge_core.running import Running

# 100 ms an item on one thread, of which 80 parallel; 10 ms fixed.
MODEL = LatencyModel(gamma=0.08, delta=0.02, epsilon=0.0, eta=0.01)
SIZES = [1000, 2000, 3000, 4000]
LIMITS = Limits(batch_cap=8, lanes=4, max_cores=4.0)


def situation(
    queued: tuple[float, ...] = (),
    running: tuple[Running, ...] = (),
    arrivals: tuple[Arrival, ...] = (),
    cores: float = 1.0,
    resize_s: float = 0.0,
) -> Situation:
    return Situation(0.0, (queued,), running, arrivals, cores, resize_s)


def misses(at: Situation, cores: float) -> int:
    return project(at, cores, [MODEL], LIMITS).misses


def test_nothing_to_do_is_met_by_the_smallest_size() -> None:
    frontier = project_frontier(situation(cores=4.0), SIZES, [MODEL], LIMITS)
    assert frontier.points[0] == FrontierPoint(cores_milli=1000, batch_cap=8, misses=0)
    assert not frontier.urgent


def test_two_tight_requests_need_two_cores() -> None:
    tight = situation(queued=(0.12, 0.12))
    assert (misses(tight, 1.0), misses(tight, 2.0)) == (1, 0)
    assert project_frontier(tight, SIZES, [MODEL], LIMITS).urgent


def test_a_resize_takes_time_and_may_come_too_late() -> None:
    assert misses(situation(queued=(0.075,), resize_s=0.0), 2.0) == 0  # l(1,2) = 70 ms
    assert misses(situation(queued=(0.075,), resize_s=0.03), 2.0) == 1


def test_what_runs_beside_the_batches_is_charged() -> None:
    # l(1,1) = 110 ms. With a fifth of the core gone it takes 110/0.8 ms, and up to 20 ms of throttling.
    alone = Situation(0.0, ((0.13,),), (), (), 1.0, 0.0)
    beside = Situation(0.0, ((0.13,),), (), (), 1.0, 0.0, overhead=0.2)
    assert (misses(alone, 1.0), misses(beside, 1.0), misses(beside, 2.0)) == (0, 1, 0)


def test_what_is_lost_on_any_size_does_not_count() -> None:
    assert misses(situation(queued=(0.001,)), 1.0) == 0


def test_a_shrink_waits_for_the_running_batches_to_fit() -> None:
    busy = situation(running=tuple(Running(1, 0.1, 0.11) for _ in range(4)), cores=4.0)
    assert misses(busy, 1.0) == 0


def test_forecast_arrivals_count() -> None:
    rush = situation(arrivals=tuple(Arrival(0.01 * i, 0.01 * i + 0.3) for i in range(12)))
    found = project_frontier(rush, SIZES, [MODEL], LIMITS)
    enough = next(p.cores_milli for p in found.points if p.misses == 0)
    assert enough > 1000
    assert misses(rush, enough / 1000 - 1) > 0


def test_models_share_the_cores_of_a_projection() -> None:
    twice = [MODEL, MODEL]
    tight = Situation(0.0, ((0.12,), (0.12,)), (), (), 1.0, 0.0)
    assert [project(tight, cores, twice, LIMITS).misses for cores in (1.0, 2.0)] == [1, 0]
    coming = Situation(0.0, ((0.12,), ()), (), (Arrival(0.0, 0.12, 1),), 1.0, 0.0)
    assert [project(coming, cores, twice, LIMITS).misses for cores in (1.0, 2.0)] == [1, 0]


def test_in_overload_every_size_misses_and_the_largest_is_offered() -> None:
    flood = situation(queued=tuple([0.2] * 60))
    found = project_frontier(flood, SIZES, [MODEL], LIMITS)
    assert found.points[-1].cores_milli == 4000
    assert all(p.misses > 0 for p in found.points)


def test_a_steady_load_is_sized_before_anything_runs() -> None:
    found = plan_steady(20.0, 0.9, SIZES, MODEL, 8)
    assert found is not None
    assert found[0] in (3000, 4000)  # the work alone is 20/s * 110 ms = 2.2 cores, less when batched
    assert plan_steady(20.0, 0.01, SIZES, MODEL, 8) is None


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    queued = draw(st.lists(st.floats(0.01, 1.5), max_size=12))
    arrivals = draw(st.lists(st.tuples(st.floats(0, 1), st.floats(0.05, 1)), max_size=12))
    coming = tuple(sorted(Arrival(at, at + left) for at, left in arrivals))
    in_force = draw(st.sampled_from(SIZES))
    return situation(queued=tuple(sorted(queued)), arrivals=coming, cores=in_force / 1000, resize_s=0.03)


@settings(max_examples=60, deadline=None)
@given(situations())
def test_the_frontier_holds_the_size_with_the_fewest_misses_that_it_tried(here: Situation) -> None:
    found = project_frontier(here, SIZES, [MODEL], LIMITS)
    sizes = [p.cores_milli for p in found.points]
    assert sizes == sorted(set(sizes))
    assert round(1000 * here.cores) in sizes
    fewest = min(p.misses for p in found.points)
    if fewest > 0:
        assert sizes[-1] == SIZES[-1], "nobody is told that it cannot be done before the largest was tried"
    chosen = next(p for p in found.points if p.misses == fewest)
    assert project(here, chosen.cores_milli / 1000, [MODEL], Limits(chosen.batch_cap, 4, 4.0)).misses == fewest


@settings(max_examples=60, deadline=None)
@given(situations())
def test_uncounted_misses_are_still_misses(here: Situation) -> None:
    counted = project_frontier(here, SIZES, [MODEL], LIMITS)
    found = project_frontier(here, SIZES, [MODEL], LIMITS, counted=False)
    if all(p.misses for p in counted.points):
        assert found == counted
    else:
        assert found.urgent == counted.urgent
        assert [(p.cores_milli, p.misses > 0) for p in found.points] == [
            (p.cores_milli, p.misses > 0) for p in counted.points
        ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.3, 2.0), min_size=1, max_size=10), st.integers(1, 3))
def test_serial_work_is_monotone_in_cores(queued: list[float], cores: int) -> None:
    """Where threads within a batch gain nothing, more cores can only run more batches side by side."""
    serial = LatencyModel(gamma=0.0, delta=0.1, epsilon=0.0, eta=0.0)
    unit = Limits(1, 8, 8.0)
    at = situation(queued=tuple(sorted(queued)), cores=float(cores))
    assert project(at, cores + 1.0, [serial], unit).misses <= project(at, float(cores), [serial], unit).misses


def points(*needs: tuple[int, float]) -> list[FrontierPoint]:
    return [FrontierPoint(cores_milli=c, batch_cap=8, misses=m) for c, m in needs]


def test_growth_is_immediate_and_shrinking_waits_for_the_look_back() -> None:
    decider = SizeDecider(look_back_s=1.0)
    assert decider.decide(0.0, 1000, points((1000, 3), (2000, 0))).cores_milli == 2000
    assert decider.decide(0.1, 2000, points((1000, 3), (2000, 0))).cores_milli == 2000
    held = decider.decide(0.2, 2000, points((1000, 0), (2000, 0)))
    assert (held.cores_milli, held.reason) == (2000, "hold")
    assert decider.decide(1.0, 2000, points((1000, 0))).cores_milli == 2000
    shrunk = decider.decide(1.15, 2000, points((1000, 0)))
    assert (shrunk.cores_milli, shrunk.reason) == (1000, "shrink")


def test_a_need_inside_the_look_back_holds_the_size_up() -> None:
    decider = SizeDecider(look_back_s=1.0)
    decider.decide(0.0, 1000, points((4000, 0)))
    decider.decide(0.8, 4000, points((3000, 0)))
    assert decider.decide(1.5, 4000, points((1000, 0))).cores_milli == 3000


def looks(decider: SizeDecider, current: int, *needs: tuple[float, int]) -> list[int]:
    """The size after each look, at (time, need)."""
    sizes = []
    for now, need in needs:
        current = decider.decide(now, current, points((need, 0))).cores_milli
        sizes.append(current)
    return sizes


def test_a_peak_is_met_and_given_back_at_the_next_look() -> None:
    steady = [(i / 10, 2000) for i in range(15)]
    decider = SizeDecider(look_back_s=1.0)
    assert looks(decider, 2000, *steady, (1.5, 4000), (1.6, 2000), (1.7, 2000))[-3:] == [4000, 2000, 2000]


def test_a_need_of_two_looks_is_no_peak() -> None:
    steady = [(i / 10, 2000) for i in range(15)]
    decider = SizeDecider(look_back_s=1.0)
    sizes = looks(decider, 2000, *steady, (1.5, 4000), (1.6, 3000), (1.7, 2000), (2.55, 2000), (2.65, 2000))
    assert sizes[-5:] == [4000, 3000, 3000, 3000, 2000]


def test_looks_far_apart_say_nothing_of_a_peak() -> None:
    decider = SizeDecider(look_back_s=1.0)
    sizes = looks(decider, 2000, (0.0, 2000), (1.0, 2000), (1.9, 4000), (2.8, 2000), (3.1, 2000))
    assert sizes[-3:] == [4000, 4000, 2000]


def test_overload_takes_the_size_with_the_fewest_misses_and_says_so() -> None:
    plan = SizeDecider().decide(0.0, 1000, points((1000, 9), (3000, 5), (4000, 5)))
    assert (plan.cores_milli, plan.feasible, plan.reason) == (3000, False, "overload")


@pytest.mark.parametrize("current", [1000, 2000, 4000])
def test_a_fresh_decider_never_shrinks_on_its_first_word(current: int) -> None:
    assert SizeDecider().decide(5.0, current, points((1000, 0))).cores_milli == current
