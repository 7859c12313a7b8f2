"""Memory of two versions beside each other, and the check before a load."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from engine_world import MODEL
from virtual_time import FakePool, VirtualLoop, run_virtual

from sponge_server.startup import beside
from sponge_server.startup.beside import check_room
from sponge_server.startup.memory_plan import Fitted, MemoryLimitError
from sponge_server.workers.interface import LaneError
from sponge_system.memory_growth import RESERVE_BYTES
from sponge_system.process_memory import MemoryModel

MIB = 1 << 20
FITTED = Fitted(MemoryModel(300 * MIB, 30 * MIB, 5 * MIB), 1 << 30, 20 * MIB, 2, (8,), server_bytes=100 * MIB)


def test_two_versions_share_the_server_and_nothing_else() -> None:
    both = FITTED.beside(FITTED)
    assert both.model == MemoryModel(500 * MIB, 60 * MIB, 10 * MIB)
    assert (both.started_bytes, both.batches, both.server_bytes) == (40 * MIB, (8, 8), 100 * MIB)
    assert FITTED.need_bytes == (300 + 2 * (30 + 40)) * MIB + RESERVE_BYTES
    assert both.need_bytes == (500 + 2 * (60 + 80)) * MIB + RESERVE_BYTES


def test_nothing_is_known_beside_what_was_not_measured() -> None:
    unknown = Fitted(None, None, 0, 2, (8,))
    assert FITTED.beside(unknown).model is None
    assert unknown.beside(FITTED).need_bytes == 0


@pytest.mark.parametrize(("limit", "fits"), [(None, True), (844, True), (843, False)])
def test_the_room_for_another_version(limit: int | None, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "memory_limit", lambda: None if limit is None else limit * MIB)
    if fits:
        check_room(FITTED, FITTED)
        return
    with pytest.raises(MemoryLimitError) as refused:
        check_room(FITTED, FITTED)
    for number in (504, 844, 843):  # what is loaded needs, both need, and the limit
        assert f"{number}" in str(refused.value)


def test_where_memory_is_not_known_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "memory_limit", lambda: MIB)
    check_room(FITTED, Fitted(None, MIB, 0, 2, (8,)))


class Loading(FakePool):
    """A pool that takes this many seconds to load."""

    def __init__(self, takes_s: float) -> None:
        super().__init__(1, MODEL)
        self.takes_s = takes_s
        self.cancelled = False

    async def start(self, lanes: int) -> None:
        try:
            await asyncio.sleep(self.takes_s)
        except asyncio.CancelledError:
            self.cancelled = True
            raise


@pytest.mark.parametrize("limit", [1000, None])
def test_a_load_ends_before_memory_runs_out(limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held grows by 100 MiB a second."""

    async def scenario(loop: VirtualLoop) -> None:
        limit_bytes = None if limit is None else limit * MIB
        monkeypatch.setattr(beside, "own_cgroup", Path)
        monkeypatch.setattr(beside, "read_memory_limit", lambda _: limit_bytes)
        monkeypatch.setattr(beside, "read_memory_held", lambda _: round((500 + 100 * loop.time()) * MIB))
        pool = Loading(60.0)
        if limit is None:
            await beside.guarded(pool.start(1))
            return
        with pytest.raises(MemoryLimitError, match="MiB were in use"):
            await beside.guarded(pool.start(1))
        assert pool.cancelled
        assert (500 + 100 * loop.time()) * MIB < limit * MIB - RESERVE_BYTES // 2

    run_virtual(scenario)


def test_what_a_load_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "read_memory_limit", lambda _: None)

    async def torn() -> None:
        raise LaneError("these weights are torn")

    async def scenario(_: VirtualLoop) -> None:
        with pytest.raises(LaneError, match="torn"):
            await beside.guarded(torn())

    run_virtual(scenario)
