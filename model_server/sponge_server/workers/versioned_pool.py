"""Versioned pool: the lanes of several pools as the lanes of one, so that versions of a model can come and go.

Each pool has processes of its own for what was loaded together. A lane of the versioned pool is one lane of each of
them: it runs one batch at a time, on the processes that have the batch's model. Usually there is one pool; there are
two while a new version takes over from the former.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sponge_server.workers.interface import (
    Allowance,
    Item,
    Lane,
    LaneCrashed,
    LanePool,
    LaneResult,
    ModelInfo,
    Progress,
)

__all__ = ["VersionedPool"]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a model is: in which pool, and its index there."""

    pool: LanePool
    model: int


class _SharedLane:
    """Implements `interface.Lane` over one lane of each pool."""

    __slots__ = ("_lanes", "_places", "id")

    def __init__(self, number: int, lanes: dict[LanePool, Lane], places: Sequence[_Place]) -> None:
        self.id = number
        self._lanes = lanes
        self._places = places

    @property
    def healthy(self) -> bool:
        lanes = self._lanes.values()
        return bool(lanes) and all(lane.healthy for lane in lanes)

    @property
    def busy(self) -> bool:
        return any(lane.busy for lane in self._lanes.values())

    async def run(
        self, items: Sequence[Item], threads: int, timeout_s: float | None = None, model: int = 0
    ) -> LaneResult:
        """See `interface.Lane.run`."""
        place = self._places[model]
        lane = self._lanes.get(place.pool)
        if lane is None:
            raise LaneCrashed(f"lane {self.id} no longer has the version that the batch is for")
        return await lane.run(items, threads, timeout_s, place.model)


class VersionedPool:
    """Implements `interface.LanePool`. It starts with one pool; `add` and `remove` others.

    A model keeps its index in `models` for good, also once its pool is gone.
    """

    def __init__(self, first: LanePool) -> None:
        self._pools: list[LanePool] = [first]
        self._leaving: list[LanePool] = []
        self._places: list[_Place] = []
        self._listeners: list[Callable[[], None]] = []
        self._scaling = asyncio.Lock()
        self._wanted = 0
        self._allowance: Allowance = lambda _: None
        self._lanes: tuple[_SharedLane, ...] = ()
        first.add_listener(lambda: self._changed(first))

    @property
    def models(self) -> Sequence[ModelInfo]:
        if not self._places:
            return self._pools[0].models  # says why there are none
        return [place.pool.models[place.model] for place in self._places]

    @property
    def lanes(self) -> Sequence[Lane]:
        return self._lanes

    @property
    def pids(self) -> Sequence[int]:
        """Of every pool, the oldest first."""
        return [pid for pool in self._pools for pid in pool.pids]

    @property
    def lane_pids(self) -> Sequence[int]:
        """Of every pool, the oldest first."""
        return [pid for pool in self._pools for pid in pool.lane_pids]

    def add_listener(self, callback: Callable[[], None]) -> None:
        self._listeners.append(callback)

    async def start(self, lanes: int) -> None:
        """See `interface.LanePool.start`; starts the first pool."""
        (first,) = self._pools
        self._wanted = lanes
        await first.start(lanes)
        self._places += [_Place(first, model) for model in range(len(first.models))]
        self._changed(first)

    async def add(self, pool: LanePool) -> int:
        """Adds a pool that was started, and gives it as many lanes as the others; the index of its first model.

        Raises LaneError or OSError when that fails; the pool is not added then.
        """
        async with self._scaling:
            if len(pool.lanes) != self._wanted:
                await pool.scale(self._wanted)
            place = len(self._places)
            self._places += [_Place(pool, model) for model in range(len(pool.models))]
            self._pools.append(pool)
            pool.add_listener(lambda: self._changed(pool))
            self._share_memory()
            self._changed(pool)
        return place

    async def remove(self, place: int) -> None:
        """Ends the pool of this model, with all its processes. Call it once nobody uses any model of it."""
        pool = self._places[place].pool
        async with self._scaling:
            self._pools.remove(pool)
            self._leaving.append(pool)
            self._changed(None)
            self._share_memory()
        await pool.close()
        self._leaving.remove(pool)

    def position(self, place: int) -> int:
        """The position of this model's pool among the present ones, the oldest first."""
        return self._pools.index(self._places[place].pool)

    def together(self, place: int) -> list[int]:
        """The models that were loaded together with this one, itself included."""
        pool = self._places[place].pool
        return [index for index, other in enumerate(self._places) if other.pool is pool]

    async def scale(self, lanes: int) -> None:
        """See `interface.LanePool.scale`."""
        async with self._scaling:
            for pool in self._pools:
                await pool.scale(lanes)
            self._wanted = lanes
            self._changed(None)

    async def warm_up(
        self, batches: Sequence[int], threads: Sequence[int], progress: Progress | None = None, model: int = 0
    ) -> None:
        """See `interface.LanePool.warm_up`."""
        place = self._places[model]
        await place.pool.warm_up(batches, threads, progress, place.model)

    def keep(self, allowance: Allowance) -> None:
        """See `interface.LanePool.keep`; the lanes of all pools share what one lane may keep."""
        self._allowance = allowance
        self._share_memory()

    async def close(self) -> None:
        """See `interface.LanePool.close`."""
        for pool in (*self._pools, *self._leaving):
            await pool.close()

    def _share_memory(self) -> None:
        parts = max(1, len(self._pools))

        def share(lanes: int) -> int | None:
            whole = self._allowance(lanes)
            return None if whole is None else whole // parts

        for pool in self._pools:
            pool.keep(share)

    def _changed(self, pool: LanePool | None) -> None:
        """Lanes have come, gone, or changed their health; `pool`: where."""
        if pool is not None and pool not in self._pools:
            return
        number = min((len(pool.lanes) for pool in self._pools), default=self._wanted)
        self._lanes = tuple(
            _SharedLane(index, {pool: pool.lanes[index] for pool in self._pools}, self._places)
            for index in range(number)
        )
        for callback in self._listeners:
            callback()
