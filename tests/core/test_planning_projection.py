"""The projection of one size: cases by hand, then invariants."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from projection_states import LIMITS, MODEL, SIZES, state, states

from sponge_core.cpu_sharing import Running
from sponge_core.dispatch.decision import Limits
from sponge_core.forecast import Arrival
from sponge_core.latency import LatencyModel
from sponge_core.planning.frontier import project_frontier
from sponge_core.planning.projection import ProjectionInput, Replayer, project


def misses(at: ProjectionInput, cores: float) -> int:
    return project(at, cores, [MODEL], LIMITS).misses


def test_two_tight_requests_need_two_cores() -> None:
    tight = state(queued=(0.12, 0.12))
    assert (misses(tight, 1.0), misses(tight, 2.0)) == (1, 0)
    assert project_frontier(tight, SIZES, [MODEL], LIMITS).urgent


def test_a_resize_takes_time_and_may_come_too_late() -> None:
    assert misses(state(queued=(0.075,), resize_s=0.0), 2.0) == 0  # l(1,2) = 70 ms
    assert misses(state(queued=(0.075,), resize_s=0.03), 2.0) == 1


def test_what_runs_beside_the_batches_is_charged() -> None:
    # l(1,1) = 110 ms. With a fifth of the core gone it takes 110/0.8 ms, and up to 20 ms of throttling.
    alone = ProjectionInput(0.0, ((0.13,),), (), (), 1.0, 0.0)
    beside = ProjectionInput(0.0, ((0.13,),), (), (), 1.0, 0.0, overhead=0.2)
    assert (misses(alone, 1.0), misses(beside, 1.0), misses(beside, 2.0)) == (0, 1, 0)


def test_what_is_lost_on_any_size_does_not_count() -> None:
    assert misses(state(queued=(0.001,)), 1.0) == 0


def test_a_shrink_waits_for_the_running_batches_to_fit() -> None:
    busy = state(running=tuple(Running(1, 0.1, 0.11) for _ in range(4)), cores=4.0)
    assert misses(busy, 1.0) == 0


def test_forecast_arrivals_count() -> None:
    rush = state(arrivals=tuple(Arrival(0.01 * i, 0.01 * i + 0.3) for i in range(12)))
    found = project_frontier(rush, SIZES, [MODEL], LIMITS)
    enough = next(p.cores_milli for p in found.points if p.misses == 0)
    assert enough > 1000
    assert misses(rush, enough / 1000 - 1) > 0


def test_models_share_the_cores_of_a_projection() -> None:
    twice = [MODEL, MODEL]
    tight = ProjectionInput(0.0, ((0.12,), (0.12,)), (), (), 1.0, 0.0)
    assert [project(tight, cores, twice, LIMITS).misses for cores in (1.0, 2.0)] == [1, 0]
    coming = ProjectionInput(0.0, ((0.12,), ()), (), (Arrival(0.0, 0.12, 1),), 1.0, 0.0)
    assert [project(coming, cores, twice, LIMITS).misses for cores in (1.0, 2.0)] == [1, 0]


@settings(max_examples=100)
@given(states(), st.sampled_from([0.0, 0.2]), st.booleans())
def test_a_size_that_is_ruled_out_without_a_replay_misses_something(
    here: ProjectionInput, error: float, serial: bool
) -> None:
    model = replace(MODEL, error=error, gamma=0.0) if serial else replace(MODEL, error=error)
    many = [125 * i for i in range(1, 33)]
    least = found_least(here, many, model)
    for milli in many[:least]:
        assert project(here, milli / 1000, [model], LIMITS).misses > 0, milli


def test_the_bounds_rule_out_what_time_and_work_say() -> None:
    # l(1,1) = 110 ms, l(1,2) = 70 ms; eight at once take at least 8 * 102 ms of a core.
    assert found_least(state(queued=(0.1,)), SIZES, MODEL) == 1
    assert found_least(state(arrivals=(Arrival(0.5, 0.6),)), SIZES, MODEL) == 1
    assert found_least(state(queued=tuple([0.3] * 8)), SIZES, MODEL) == 2
    assert found_least(state(queued=tuple([0.2] * 60)), SIZES, MODEL) == 4
    assert found_least(state(), SIZES, MODEL) == 0


def found_least(at: ProjectionInput, candidates: list[int], model: LatencyModel) -> int:
    return Replayer(at, [model], LIMITS.max_cores).first_candidate(candidates, LIMITS.batch_cap)


@settings(max_examples=60)
@given(st.lists(st.floats(0.3, 2.0), min_size=1, max_size=10), st.integers(1, 3))
def test_serial_work_is_monotone_in_cores(queued: list[float], cores: int) -> None:
    """Where threads within a batch gain nothing, more cores can only run more batches side by side."""
    serial = LatencyModel(gamma=0.0, delta=0.1, epsilon=0.0, eta=0.0)
    unit = Limits(1, 8, 8.0)
    at = state(queued=tuple(sorted(queued)), cores=float(cores))
    assert project(at, cores + 1.0, [serial], unit).misses <= project(at, float(cores), [serial], unit).misses
