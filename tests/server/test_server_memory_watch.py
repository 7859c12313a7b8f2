"""The server's memory and its limit, as the operator sees them."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from sponge_core.control_api import MemoryState
from sponge_server.memory_watch import INTERVAL_S, MemoryWatch
from sponge_server.observability.metrics import Metrics
from sponge_server.startup.memory_plan import Fitted
from sponge_server.workers.interface import LanePool
from sponge_system.memory_growth import RESERVE_BYTES
from sponge_system.process_memory import MemoryModel

MIB = 1 << 20
FITTED = Fitted(MemoryModel(200 * MIB, 30 * MIB, 10 * MIB), 1024 * MIB, 20 * MIB, 2, (8,))


class Pool:
    """Keeps what its lanes may keep."""

    def __init__(self) -> None:
        self.lanes = (object(), object())
        self.lane_pids: list[int] = []
        self.kept: list[int | None] = []
        self.listeners: list[Callable[[], None]] = []

    def add_listener(self, callback: Callable[[], None]) -> None:
        self.listeners.append(callback)

    def keep(self, allowance: Any) -> None:
        self.kept.append(allowance(2))


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.procs").write_text("")
    (tmp_path / "memory.max").write_text(f"{1024 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{300 * MIB}\n")
    return tmp_path


def watch(fitted: Fitted, cgroup: Path) -> tuple[MemoryWatch, Pool]:
    pool = Pool()
    return MemoryWatch(fitted, cast(LanePool, pool), Metrics(), cgroup), pool


def test_the_state_says_what_is_used_and_needed(cgroup: Path) -> None:
    memory, pool = watch(FITTED, cgroup)
    memory.look(0.0)
    state = memory.state
    assert state == MemoryState(
        limit=1024 * MIB, used=300 * MIB, base=200 * MIB + RESERVE_BYTES, lane=30 * MIB, item=10 * MIB
    )
    assert state is not None
    assert state.needs(2, 8) == 200 * MIB + RESERVE_BYTES + 2 * (30 + 80) * MIB
    assert pool.kept == []


def test_lanes_keep_less_under_a_smaller_limit(cgroup: Path) -> None:
    memory, pool = watch(FITTED, cgroup)
    memory.look(0.0)
    (cgroup / "memory.max").write_text(f"{600 * MIB}\n")
    memory.look(INTERVAL_S / 2)
    assert pool.kept == []
    memory.look(INTERVAL_S)
    assert memory.state is not None
    assert memory.state.limit == 600 * MIB
    assert pool.kept == [(600 - 64 - 200) // 2 * MIB - 20 * MIB - 80 * MIB]
    assert memory.most_batch == 8
    (cgroup / "memory.max").write_text(f"{1024 * MIB}\n")
    memory.look(2 * INTERVAL_S)
    assert pool.kept[-1] == FITTED.keep_bytes(2)


def test_lanes_grow_by_what_is_left(cgroup: Path) -> None:
    memory, pool = watch(FITTED, cgroup)
    (cgroup / "memory.stat").write_text(f"active_file {100 * MIB}\ninactive_file 0\n")
    with subprocess.Popen(["sleep", "60"]) as process:
        pool.lane_pids.append(process.pid)

        def refused_from() -> int:
            """MiB of the limit, without what so small a process has mapped."""
            return resource.prlimit(process.pid, resource.RLIMIT_DATA)[0] // MIB

        try:
            memory.look(0.0)
            assert refused_from() == pytest.approx(1024 - 200 - 16, abs=4)
            (cgroup / "memory.current").write_text(f"{800 * MIB}\n")
            memory.look(INTERVAL_S)
            assert refused_from() == pytest.approx(1024 - 700 - 16, abs=4)
            (cgroup / "memory.max").write_text(f"{600 * MIB}\n")
            memory.look(2 * INTERVAL_S)
            assert refused_from() == pytest.approx(0, abs=4)
            (cgroup / "memory.current").write_text(f"{300 * MIB}\n")
            for changed in pool.listeners:  # as when a lane was replaced
                changed()
            assert refused_from() == pytest.approx(600 - 200 - 16, abs=4)
        finally:
            process.kill()
    memory.look(3 * INTERVAL_S)  # of a process that has ended, nothing is said


@pytest.mark.parametrize(("limit", "most"), [(1024, 8), (484, 8), (483, 7), (350, 1), (250, 1)])
def test_batches_stay_within_the_limit(limit: int, most: int, cgroup: Path) -> None:
    memory, _ = watch(FITTED, cgroup)
    (cgroup / "memory.max").write_text(f"{limit * MIB}\n")
    memory.look(0.0)
    assert memory.most_batch == most


def test_what_is_loaded_later_counts_at_once(cgroup: Path) -> None:
    memory, pool = watch(FITTED, cgroup)
    memory.look(0.0)
    memory.use(FITTED.beside(FITTED))
    assert pool.kept[-1] == FITTED.beside(FITTED).keep_bytes(2)
    memory.look(INTERVAL_S / 2)
    assert memory.state is not None
    assert memory.state.lane == 60 * MIB
    (cgroup / "memory.max").write_text(f"{600 * MIB}\n")
    memory.look(INTERVAL_S * 2)
    assert memory.most_batch < 8
    memory.use(FITTED)
    assert memory.most_batch == 8


@pytest.mark.parametrize(
    "fitted",
    [Fitted(None, 1024 * MIB, 0, 2, (8,)), Fitted(FITTED.model, None, 0, 2, (8,))],
    ids=["not measured", "no limit"],
)
def test_nothing_is_said_of_what_is_unknown(fitted: Fitted, cgroup: Path) -> None:
    memory, _ = watch(fitted, cgroup)
    memory.look(0.0)
    assert memory.state is None
