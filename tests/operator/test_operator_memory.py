"""The memory limit in place: what it should be, what is due, and that the CPU never waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operator_world import KUBELET_S, World
from virtual_time import VirtualLoop, run_virtual

from sponge_core.control_api import MemoryState, StateSnapshot
from sponge_operator.autoscale.memory import (
    QUIET_S,
    SHRINK_AFTER_S,
    STUCK_S,
    MemoryHistory,
    MemoryLimit,
    MemoryRule,
    observe_memory,
    step_memory,
)
from sponge_operator.clients.kube import ApiError

MIB = 1 << 20
RULE = MemoryRule(base=512 * MIB, per_item=64 * MIB, most_batch=8)


def state(used: int = 200, base: int = 300, lane: int = 20, item: int = 10, limit: int = 1024) -> MemoryState:
    return MemoryState(limit=limit * MIB, used=used * MIB, base=base * MIB, lane=lane * MIB, item=item * MIB)


@pytest.mark.parametrize(
    ("given", "lanes", "cap", "mib"),
    [
        pytest.param(state(), 2, 8, 1024, id="all"),
        pytest.param(state(), 2, 1, 576, id="by the batch cap"),
        pytest.param(state(used=600), 2, 1, 704, id="what is in use and a margin"),
        pytest.param(state(), 16, 1, 832, id="what the lanes need"),
        pytest.param(state(used=2000), 2, 1, 1024, id="never more than a new pod gets"),
    ],
)
def test_wanted(given: MemoryState, lanes: int, cap: int, mib: int) -> None:
    assert RULE.wanted(given, lanes, cap) == mib * MIB


@pytest.mark.parametrize(
    ("limit", "lanes", "cap"), [(1024, 2, 8), (1023, 2, 7), (576, 2, 1), (500, 2, 1), (800, 16, 1)]
)
def test_cap_under_a_limit(limit: int, lanes: int, cap: int) -> None:
    assert RULE.cap_under(limit * MIB, state(), lanes, 8) == cap


sizes = st.integers(0, 2000)


@given(sizes, sizes, sizes, st.integers(0, 100), st.integers(1, 16), st.integers(1, 8))
def test_the_wanted_limit_holds_what_it_is_for(
    used: int, base: int, lane: int, item: int, lanes: int, cap: int
) -> None:
    memory = state(used, base, lane, item)
    wanted = RULE.wanted(memory, lanes, cap)
    assert RULE.at(cap) <= wanted <= RULE.most
    assert wanted == RULE.most or wanted >= max(memory.used, memory.needs(lanes, cap))
    assert RULE.cap_under(wanted, memory, lanes, cap) == cap


def pod(spec: str, actual: str | None, *conditions: dict[str, Any], generation: int = 2) -> dict[str, Any]:
    own = {"name": "server", "resources": {} if actual is None else {"limits": {"memory": actual}}}
    return {
        "metadata": {"generation": generation},
        "spec": {"containers": [{"name": "server", "resources": {"limits": {"memory": spec}}}]},
        "status": {"containerStatuses": [own], "conditions": list(conditions)},
    }


def condition(kind: str, reason: str, generation: int = 2) -> dict[str, Any]:
    return {"type": kind, "status": "True", "reason": reason, "message": "why", "observedGeneration": generation}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(pod("1Gi", "1073741824"), MemoryLimit(1 << 30, 1 << 30), id="in force"),
        pytest.param(pod("512Mi", "1Gi"), MemoryLimit(1 << 29, 1 << 30), id="on its way"),
        pytest.param(
            pod("512Mi", "1Gi", condition("PodResizeInProgress", "Error")),
            MemoryLimit(1 << 29, 1 << 30, "why"),
            id="below what is in use",
        ),
        pytest.param(
            pod("2Gi", "1Gi", condition("PodResizePending", "Deferred")),
            MemoryLimit(1 << 31, 1 << 30, "why"),
            id="no room",
        ),
        pytest.param(
            pod("2Gi", "1Gi", condition("PodResizePending", "Deferred", 1)), MemoryLimit(1 << 31, 1 << 30), id="of old"
        ),
        pytest.param(
            pod("1Gi", "1Gi", condition("PodResizePending", "Deferred")), MemoryLimit(1 << 30, 1 << 30), id="of the CPU"
        ),
        pytest.param(pod("1Gi", None), None, id="not reported"),
    ],
)
def test_observe(given: dict[str, Any], expected: MemoryLimit | None) -> None:
    assert observe_memory(given, "server") == expected


def test_a_shrink_waits_and_takes_the_most_that_was_wanted() -> None:
    here, history = MemoryLimit(100, 100), MemoryHistory()
    for now, wanted in ((0.0, 40), (3.0, 60), (9.9, 50)):
        action, history = step_memory(here, wanted, history, now)
        assert action is None
    action, history = step_memory(here, 50, history, SHRINK_AFTER_S)
    assert action is not None
    assert (action.limit, action.kind) == (60, "shrink")


def test_a_need_in_between_starts_the_wait_again() -> None:
    here, history = MemoryLimit(100, 100), MemoryHistory()
    for now, wanted in ((0.0, 40), (5.0, 100), (6.0, 40), (SHRINK_AFTER_S + 5.0, 40)):
        action, history = step_memory(here, wanted, history, now)
        assert action is None


def test_a_grow_goes_at_once_and_a_stuck_one_is_taken_back() -> None:
    action, history = step_memory(MemoryLimit(100, 100), 150, MemoryHistory(), 0.0)
    assert action is not None
    assert (action.limit, action.kind) == (150, "grow")
    stuck = MemoryLimit(150, 100)
    assert step_memory(stuck, 150, history, STUCK_S / 2)[0] is None
    action, history = step_memory(stuck, 150, history, STUCK_S)
    assert action is not None
    assert (action.limit, action.kind) == (100, "taken_back")
    assert "not in force" in action.message
    # The same is not tried again at once.
    assert step_memory(MemoryLimit(100, 100), 150, history, STUCK_S + QUIET_S / 2)[0] is None
    assert step_memory(MemoryLimit(100, 100), 150, history, STUCK_S + QUIET_S)[0] is not None


def test_a_refusal_of_the_kubelet_is_taken_back_without_waiting() -> None:
    action, _ = step_memory(MemoryLimit(50, 100, "below current usage"), 50, MemoryHistory(patched_at=0.0), 0.1)
    assert action is not None
    assert (action.limit, action.kind, action.message) == (100, "taken_back", "below current usage")


# --- the loop in virtual time --------------------------------------------------------------------------------------

MEMORY = {"base": "512Mi", "perBatchItem": "64Mi", "inPlace": True}


class CappedWorld(World):
    """A server whose projection wants the batch cap `cap`."""

    cap = 8

    def snapshot(self) -> StateSnapshot:
        plain = super().snapshot()
        points = [point.model_copy(update={"batch_cap": self.cap}) for point in plain.frontier]
        return plain.model_copy(update={"frontier": points})


def world(**changes: Any) -> CappedWorld:
    made = CappedWorld(start=500, memory=MEMORY | changes)
    made.memory = state()
    return made


def memory_of(world: World) -> int:
    limit = observe_memory(world.pod, "server")
    assert limit is not None
    return limit.actual // MIB


def test_memory_shrinks_after_the_cap_and_grows_before_it() -> None:
    async def scenario(_: VirtualLoop) -> None:
        server = world()
        await server.run(3.0)
        assert memory_of(server) == 1024
        server.cap = 2
        await server.run(SHRINK_AFTER_S - 2.0)
        assert (server.applied.batch_cap if server.applied else None, memory_of(server)) == (2, 1024)
        await server.run(5.0)
        assert memory_of(server) == 640
        server.calls.clear()
        caps: list[tuple[int, int]] = []
        server.cap = 8
        running = asyncio.create_task(server.run(4.0))
        while not running.done():
            caps.append((server.applied.batch_cap if server.applied else 0, memory_of(server)))
            await asyncio.sleep(0.005)
        await running
        assert caps[-1] == (8, 1024)
        assert all(mib >= 512 + 64 * cap for cap, mib in caps)
        kinds = next(iter(server.context.metrics.memory_resizes.collect())).samples
        assert {s.labels["kind"]: s.value for s in kinds if s.name.endswith("_total")} == {"shrink": 1, "grow": 1}

    run_virtual(scenario)


def test_memory_stays_where_it_is_not_in_place() -> None:
    async def scenario(_: VirtualLoop) -> None:
        server = world(inPlace=False)
        server.cap = 1
        await server.run(3 * SHRINK_AFTER_S)
        assert not [call for call in server.calls if call[0] == "memory"]

    run_virtual(scenario)


def test_a_server_that_starts_again_gets_the_whole_limit() -> None:
    async def scenario(_: VirtualLoop) -> None:
        server = world()
        server.cap = 1
        await server.run(SHRINK_AFTER_S + 3.0)
        assert memory_of(server) == 576
        server.reachable = False
        await server.run(2.0)
        assert memory_of(server) == 1024

    run_virtual(scenario)


def test_switched_off_it_is_given_back() -> None:
    async def scenario(_: VirtualLoop) -> None:
        server = world()
        server.cap = 1
        await server.run(SHRINK_AFTER_S + 3.0)
        server.body["spec"]["memory"] = MEMORY | {"inPlace": False}
        await server.run(3.0)
        assert memory_of(server) == 1024

    run_virtual(scenario)


def test_the_cpu_never_waits_for_memory_that_is_stuck() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        server = world()
        server.cap = 1
        await server.run(SHRINK_AFTER_S + 1.0)
        # More comes into use between the look and the kubelet's check: the shrink does not come into force.
        server.memory = state(used=1000)
        limits = server.pod["spec"]["containers"][0]["resources"]
        server.pod["metadata"]["generation"] += 1
        limits["limits"]["memory"] = limits["requests"]["memory"] = str(576 * MIB)
        server.touch()
        before = len(server.calls)
        loop.call_later(0.01, server.change, 1250)
        began = loop.time()
        await server.run(1.5)
        assert server.quota == 1250
        grown = next(i for i, call in enumerate(server.calls[before:], before) if call == ("patch", 1250))
        assert server.times[grown] - began < 0.1 + KUBELET_S
        assert memory_of(server) == 1024

    run_virtual(scenario)


def test_a_refused_grow_keeps_the_cap_and_says_why() -> None:
    async def scenario(_: VirtualLoop) -> None:
        server = world()
        server.cap = 1
        await server.run(SHRINK_AFTER_S + 3.0)
        server.refusal = ApiError(403, {"message": "exceeded quota: memory"})
        server.cap = 8
        await server.run(5.0)
        assert server.applied is not None
        assert server.applied.batch_cap == 1
        assert [event[1] for event in server.events] == ["MemoryResizeBlocked"]
        assert "exceeded quota" in server.events[0][2]
        server.refusal = None
        await server.run(QUIET_S)
        assert (server.applied.batch_cap, memory_of(server)) == (8, 1024)

    run_virtual(scenario)


def held(world: World) -> dict[str, float]:
    samples = next(iter(world.context.metrics.held.collect())).samples
    return {s.labels["reason"]: s.value for s in samples if s.name.endswith("_total")}


def test_memory_resizes_use_the_budget_of_resizes_and_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    is_empty = True

    def take(_: float, *, grows: bool) -> bool:
        asked.append(grows)
        return not is_empty

    async def scenario(_: VirtualLoop) -> None:
        nonlocal is_empty
        server = world()
        await server.run(1.0)
        monkeypatch.setattr(server.context.budget, "take", take)
        server.cap = 2
        await server.run(SHRINK_AFTER_S + 10.0)
        assert (memory_of(server), held(server)) == (1024, {"rate": 1.0})
        is_empty = False
        await server.run(3.0)
        assert memory_of(server) == 640
        server.cap = 8
        await server.run(3.0)
        assert (memory_of(server), held(server)) == (1024, {"rate": 1.0})
        assert asked.count(True) == 1

    run_virtual(scenario)
