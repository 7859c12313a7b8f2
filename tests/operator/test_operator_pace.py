"""Bounds on how fast a server is resized, and sizes that were refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operator_world import World
from virtual_time import VirtualLoop, run_virtual

from sponge_core.control_api import SizeRange
from sponge_core.planning.decider import Recommendation
from sponge_operator.autoscale.pace import Pace, paced, possible
from sponge_operator.autoscale.recommender import sizes_within

SIZES = SizeRange(min_milli=250, max_milli=4000, step_milli=250)
NOW = 100.0


def wanted(milli: int, reason: str = "grow") -> Recommendation:
    return Recommendation(milli, 8, True, reason)


@pytest.mark.parametrize(
    ("has", "want", "pace", "expected"),
    [
        pytest.param(500, 4000, Pace(), (4000, "grow"), id="no bound"),
        pytest.param(500, 4000, Pace(max_grow_milli=1000), (1500, "max-grow"), id="so many cores at once"),
        pytest.param(500, 4000, Pace(max_grow_milli=1100), (1500, "max-grow"), id="rounded down to a size"),
        pytest.param(500, 1250, Pace(max_grow_milli=1000), (1250, "grow"), id="less than the bound"),
        pytest.param(1000, 4000, Pace(max_grow_percent=100), (2000, "max-grow"), id="twice the present size"),
        pytest.param(500, 4000, Pace(max_grow_percent=10), (750, "max-grow"), id="at least one step"),
        pytest.param(50, 4000, Pace(max_grow_milli=500), (750, "max-grow"), id="a parked pod: from cpu.min on"),
        pytest.param(4000, 250, Pace(max_grow_milli=250), (250, "grow"), id="a shrink is never split"),
        pytest.param(500, 1000, Pace(paused="grow"), (500, "grow-paused"), id="no grow"),
        pytest.param(500, 250, Pace(paused="grow"), (250, "grow"), id="but a shrink"),
        pytest.param(50, 1000, Pace(paused="grow"), (250, "grow-paused"), id="a parked pod still wakes"),
        pytest.param(500, 250, Pace(paused="shrink"), (500, "shrink-paused"), id="no shrink"),
        pytest.param(500, 1000, Pace(paused="shrink"), (1000, "grow"), id="but a grow"),
        pytest.param(6000, 250, Pace(paused="shrink"), (4000, "shrink-paused"), id="cpu.max is in force at once"),
        pytest.param(500, 1000, Pace(grow_cooldown_s=6.0), (500, "cooldown"), id="grown a moment ago"),
        pytest.param(500, 1000, Pace(grow_cooldown_s=4.0), (1000, "grow"), id="long enough ago"),
        pytest.param(50, 1000, Pace(grow_cooldown_s=6.0), (250, "cooldown"), id="up to cpu.min at once"),
        pytest.param(500, 250, Pace(shrink_cooldown_s=6.0), (500, "cooldown"), id="resized a moment ago"),
        pytest.param(500, 250, Pace(shrink_cooldown_s=4.0), (250, "grow"), id="resized long enough ago"),
    ],
)
def test_pace(has: int, want: int, pace: Pace, expected: tuple[int, str]) -> None:
    moved = paced(wanted(want), has, SIZES, pace, NOW, grown_at=NOW - 5.0, shrunk_at=NOW - 9.0)
    assert (moved.cores_milli, moved.reason) == expected


sizes = st.integers(0, 15).map(lambda n: 250 + 250 * n)


@given(
    has=st.integers(10, 6000),
    want=st.one_of(sizes, st.just(50)),
    pace=st.builds(
        Pace,
        st.one_of(st.none(), st.integers(1, 4000)),
        st.one_of(st.none(), st.integers(1, 300)),
        st.floats(0, 20),
        st.floats(0, 20),
        st.sampled_from([None, "grow", "shrink"]),
    ),
    ago=st.floats(0, 30),
)
def test_a_pace_never_reverses_or_overshoots_and_reaches_the_size_in_the_end(
    has: int, want: int, pace: Pace, ago: float
) -> None:
    moved = paced(wanted(want), has, SIZES, pace, NOW, NOW - ago, None).cores_milli
    assert min(has, want) <= moved <= max(has, want)
    if pace.paused is None:
        now, steps = NOW + 60.0, 0
        while has != want:
            after = paced(wanted(want), has, SIZES, pace, now, None, None).cores_milli
            assert after != has
            has, steps = after, steps + 1
        assert steps <= 17


@pytest.mark.parametrize(
    ("has", "want", "floor", "ceiling", "expected"),
    [
        pytest.param(500, 1000, None, None, (1000, True, "grow"), id="nothing was refused"),
        pytest.param(500, 1000, None, 1000, (1000, True, "grow"), id="below the ceiling"),
        pytest.param(500, 1000, None, 900, (750, False, "ceiling"), id="above the ceiling"),
        pytest.param(100, 250, None, 230, (200, False, "ceiling"), id="no size below the ceiling: what there is"),
        pytest.param(120, 250, None, 140, (120, False, "ceiling"), id="nor anything more than the present size"),
        pytest.param(50, 3000, None, 249, (200, False, "ceiling"), id="a parked pod wakes to what the node has"),
        pytest.param(1000, 750, None, 500, (1000, False, "ceiling"), id="the present size is above the ceiling"),
        pytest.param(1000, 500, None, 500, (500, True, "grow"), id="from above the ceiling to below it"),
        pytest.param(1000, 250, 400, None, (500, True, "floor"), id="below the floor"),
        pytest.param(250, 50, 200, None, (250, True, "floor"), id="parked below the floor"),
        pytest.param(450, 250, 500, None, (450, True, "floor"), id="the present size is below the floor"),
        pytest.param(250, 375, 500, None, (500, True, "floor"), id="a grow to below the floor"),
        pytest.param(500, 250, 4100, None, (500, True, "floor"), id="no size above the floor"),
        pytest.param(6000, 4000, 4120, None, (4150, True, "floor"), id="no size above the floor, from further above"),
    ],
)
def test_possible(has: int, want: int, floor: int | None, ceiling: int | None, expected: tuple[int, bool, str]) -> None:
    within = sizes_within(SIZES, floor, None if ceiling is None else max(ceiling, has))
    moved = possible(wanted(want), has, within, floor, ceiling)
    assert (moved.cores_milli, moved.feasible, moved.reason) == expected


@pytest.mark.parametrize("room", [180, 260, 600])
def test_a_minimum_above_what_the_node_has_gives_what_it_has(room: int) -> None:
    async def scenario(_: VirtualLoop) -> None:
        cpu: dict[str, Any] = {"min": "1", "max": "2", "step": "500m"}
        world = World(start=100, room=room, cpu=cpu)
        await world.run(3.0)
        assert world.quota == room // 50 * 50
        assert world.outcomes() == {"deferred": 1, "actuated": 1}
        assert world.controller is not None
        assert world.controller.state.blocked is not None
        assert world.controller.state.blocked.reason == "Deferred"

    run_virtual(scenario)


def held(world: World) -> dict[str, float]:
    samples = next(iter(world.context.metrics.held.collect())).samples
    return {s.labels["reason"]: s.value for s in samples if s.name.endswith("_total")}


@pytest.mark.parametrize(
    ("pause", "sizes", "counted"),
    [("grow", [250], {"grow-paused": 1.0}), ("shrink", [1500], {"shrink-paused": 1.0}), ("yes", [], {})],
)
def test_a_pause_holds_one_direction_and_an_unknown_value_both(
    pause: str, sizes: list[int], counted: dict[str, float]
) -> None:
    async def scenario(_: VirtualLoop) -> None:
        world = World(start=500)
        world.annotate(**{"serving.sponge.dev/paused": pause})
        await world.run(1.5)
        world.change(1500)
        await world.run(5.0)
        world.change(250, urgent=False)
        await world.run(5.0)
        assert world.patches() == sizes
        assert held(world) == counted

    run_virtual(scenario)


def test_a_grow_is_split_and_cools_down() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        cpu: dict[str, Any] = {"min": "250m", "max": "1500m", "step": "125m", "maxGrow": "500m", "growCooldown": "2s"}
        world = World(start=250, cpu=cpu)
        await world.run(1.5)
        began = loop.time()
        world.change(1500)
        await world.run(7.0)
        assert world.patches() == [750, 1250, 1500]
        at = [time - began for time, call in zip(world.times, world.calls, strict=True) if call[0] == "patch"]
        assert at[0] < 0.1
        assert all(2.0 <= later - earlier < 2.5 for earlier, later in itertools.pairwise(at))
        assert held(world) == {"cooldown": 2.0}

    run_virtual(scenario)
