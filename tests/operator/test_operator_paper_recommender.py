"""The paper's planner in the control loop decides as `sponge plan --planner paper` does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from operator_world import World
from virtual_time import VirtualLoop, run_virtual

from sponge_core.control_api import LatencyCoefficients, SizeRange, StateSnapshot
from sponge_core.latency import LatencyModel
from sponge_operator.autoscale.paper_recommender import INTERVAL_S, PaperRecommender
from sponge_profiles.profile import load_profile
from sponge_simulator.planning import PLANNERS, Load

WHOLE = SizeRange(min_milli=1000, max_milli=16_000, step_milli=1000)
SLO_S = 1.0


def snapshot(model: LatencyModel, **changes: Any) -> StateSnapshot:
    values: dict[str, Any] = {
        "version": 1,
        "applied_version": 0,
        "now_s": 0.0,
        "ready": True,
        "draining": False,
        "models": ["m"],
        "cores_milli": 1000,
        "cpu_quota_milli": 1000,
        "thread_budget": 1,
        "threads_running": 0,
        "batch_cap": 3,
        "lanes": [],
        "queue_length": 0,
        "queue_slack_s": [],
        "uploads_in_flight": 0,
        "arrival_rate_rps": 0.0,
        "remaining_slo_s": [],
        "outcomes": {},
        "latency_p99_s": None,
        "throttled_s": 0.0,
        "prediction_ratio": 1.0,
        "idle_for_s": 0.0,
        "urgent": False,
        "frontier": [],
        "profile": LatencyCoefficients.of(model),
    }
    return StateSnapshot(**(values | changes))


factor = st.floats(0.5, 2.0)
models = st.builds(
    LatencyModel,
    gamma=st.floats(0.001, 0.2),
    delta=st.floats(0.0, 0.05),
    epsilon=st.floats(-0.05, 0.05),
    eta=st.floats(0, 0.05),
    by_threads=st.lists(factor, max_size=4).map(tuple),
)


@settings(max_examples=60)
@given(
    model=models,
    rate=st.floats(0.01, 80),
    slo_ms=st.floats(50, 3000),
    left=st.floats(0.01, 1.0),
    max_cores=st.integers(1, 12),
    max_batch=st.integers(1, 8),
    model_takes=st.integers(1, 64),
)
def test_it_decides_as_the_command_does(
    model: LatencyModel, rate: float, slo_ms: float, left: float, max_cores: int, max_batch: int, model_takes: int
) -> None:
    slo_s = slo_ms / 1000
    remaining_s = left * slo_s
    network_ms = (slo_s - remaining_s) * 1000
    assume(network_ms < slo_ms)
    load = Load(rate, slo_ms, network_ms, max_cores, min(max_batch, model_takes))
    wanted = PLANNERS["paper"](model, load)

    state = snapshot(
        dataclasses.replace(model, max_batch=model_takes), arrival_rate_rps=rate, remaining_slo_s=[remaining_s] * 6
    )
    sent = StateSnapshot.model_validate_json(state.model_dump_json())
    sizes = SizeRange(min_milli=1000, max_milli=1000 * max_cores, step_milli=1000)
    found = PaperRecommender().recommend(0.0, 1000, sent, sizes, slo_s, max_batch)

    assert found is not None
    assert found.planner == "paper"
    assert found.feasible == wanted.feasible
    if wanted.feasible:
        assert (found.cores_milli, found.batch_cap) == (1000 * wanted.cores, wanted.batch)
    else:
        assert (found.cores_milli, found.batch_cap, found.reason) == (1000, 3, "infeasible")


@pytest.mark.parametrize(
    ("left_ms", "expected"),
    [(995, (9, 4)), (980, (9, 5)), (945, (11, 4)), (892, (13, 5)), (856, (16, 5)), (855, None)],
)
def test_the_published_decisions(left_ms: int, expected: tuple[int, int] | None) -> None:
    model = load_profile("yolov5s-paper").latency_model()
    state = snapshot(model, arrival_rate_rps=20.0, remaining_slo_s=[left_ms / 1000, 0.99, 1.0, 1.0, 1.0, 1.0])
    found = PaperRecommender().recommend(0.0, 8000, state, WHOLE, SLO_S, 8)
    assert found is not None
    assert (found.cores_milli // 1000, found.batch_cap) == (expected or (8, 3))
    assert found.feasible is (expected is not None)


FAST = LatencyModel(gamma=0.05, delta=0.01, epsilon=0.0, eta=0.0)
"""For 20 requests a second of 1 s: 2 cores."""


@pytest.mark.parametrize(
    ("sizes", "current", "expected"),
    [
        pytest.param((1000, 4000, 1000), 1000, (2000, "grow"), id="whole cores"),
        pytest.param((1000, 4000, 1000), 2000, (2000, "hold"), id="right already"),
        pytest.param((1000, 4000, 1000), 4000, (2000, "shrink"), id="too many"),
        pytest.param((3000, 4000, 1000), 3000, (3000, "hold"), id="the range begins above"),
        pytest.param((500, 4500, 1000), 500, (2500, "grow"), id="the next size that has them"),
        pytest.param((500, 1500, 1000), 500, (500, "infeasible"), id="the range ends below"),
        pytest.param((250, 750, 250), 750, (750, "infeasible"), id="no whole core"),
    ],
)
def test_sizes_of_the_range(sizes: tuple[int, int, int], current: int, expected: tuple[int, str]) -> None:
    allowed = SizeRange(min_milli=sizes[0], max_milli=sizes[1], step_milli=sizes[2])
    found = PaperRecommender().recommend(0.0, current, snapshot(FAST, arrival_rate_rps=20.0), allowed, SLO_S, 8)
    assert found is not None
    assert (found.cores_milli, found.reason) == expected


def test_a_longer_queue_counts_as_rate() -> None:
    waiting, arriving = snapshot(FAST, queue_length=20, arrival_rate_rps=1.0), snapshot(FAST, arrival_rate_rps=20.0)
    assert PaperRecommender().recommend(0.0, 1000, waiting, WHOLE, SLO_S, 8) == PaperRecommender().recommend(
        0.0, 1000, arriving, WHOLE, SLO_S, 8
    )


def test_one_program_a_second_and_a_new_range_at_once() -> None:
    paper = PaperRecommender()

    def cores(now: float, rate: float, sizes: SizeRange = WHOLE) -> int:
        found = paper.recommend(now, 1000, snapshot(FAST, arrival_rate_rps=rate), sizes, SLO_S, 8)
        assert found is not None
        return found.cores_milli

    few, many = cores(0.0, 1.0), cores(INTERVAL_S, 60.0)
    assert many > few
    assert cores(1.5 * INTERVAL_S, 1.0) == many
    assert cores(1.6 * INTERVAL_S, 1.0, WHOLE.model_copy(update={"max_milli": 8000})) == few
    assert cores(3 * INTERVAL_S, 60.0) == many


def test_nothing_without_a_profile() -> None:
    state = snapshot(FAST, profile=None, arrival_rate_rps=20.0)
    assert PaperRecommender().recommend(0.0, 1000, state, WHOLE, SLO_S, 8) is None


@pytest.mark.parametrize(
    ("policy", "frontier", "profile", "planner"),
    [
        ("paper", True, FAST, "paper"),
        ("projected", True, FAST, "projected"),
        ("projected", False, FAST, "paper"),
        ("paper", True, None, "projected"),
        ("projected", False, None, "projected"),
    ],
)
def test_who_decides(policy: str, frontier: bool, profile: LatencyModel | None, planner: str) -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=1000, cpu={"min": "1", "max": "4"}, slo={"latency": "1s"}, planner={"policy": policy})
        plain = world.snapshot

        def changed() -> StateSnapshot:
            state = plain().model_copy(update={"arrival_rate_rps": 20.0})
            coefficients = None if profile is None else LatencyCoefficients.of(profile)
            return state.model_copy(update={"profile": coefficients, **({} if frontier else {"frontier": []})})

        world.snapshot = changed  # type: ignore[method-assign]
        await world.run(3.0)
        assert world.quota == (2000 if planner == "paper" else 1000)
        seconds = next(iter(world.context.metrics.plan.collect())).samples
        assert {s.labels["policy"] for s in seconds if s.name.endswith("_count") and s.value} == {planner}
        if planner == "paper":
            entry = world.decisions.entries[-1]
            assert (entry.planner, entry.to_milli, entry.reason) == ("paper", 2000, "grow")

    run_virtual(scenario)
