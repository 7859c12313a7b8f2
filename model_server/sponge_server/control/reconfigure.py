"""Carries out the operator's messages: size, batch cap and range of sizes, in order, each acknowledged.

A larger size counts at once. A smaller one binds new batches at once, and is acknowledged when the threads in use fit
it, so that whoever shrinks the quota after that throttles nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sponge_core.control_api import ApplyAck, ApplyRequest, SizeRange
from sponge_core.cpu_sharing import thread_budget
from sponge_core.errors import SpongeError
from sponge_server.control.projector import Planner
from sponge_server.control.state_publisher import StateBoard
from sponge_server.engine.cpu_quota import Cores
from sponge_server.engine.engine import Engine
from sponge_server.observability.metrics import Metrics
from sponge_server.settings import sizes_milli
from sponge_server.workers.interface import LanePool

__all__ = ["Applier", "StaleVersionError"]


class StaleVersionError(SpongeError):
    """A message that is not newer than what is in force, or was overtaken while it waited."""


class Applier:
    """The one writer of cores, batch cap and sizes after the start."""

    def __init__(
        self,
        *,
        board: StateBoard,
        engine: Engine,
        cores: Cores,
        planner: Planner,
        pool: LanePool,
        metrics: Metrics,
        max_batch: int,
        max_lanes: int,
        clock: Callable[[], float],
    ) -> None:
        self._board = board
        self._engine = engine
        self._cores = cores
        self._planner = planner
        self._pool = pool
        self._metrics = metrics
        self._max_batch = max_batch
        self._max_lanes = max_lanes
        self._clock = clock
        self._scaling: asyncio.Task[None] | None = None

    async def apply(self, request: ApplyRequest) -> ApplyAck:
        """Raises StaleVersionError when `request.version` is not greater than the one in force."""
        began = self._clock()
        if request.version <= self._board.applied_version:
            raise StaleVersionError(
                f"version {request.version} is stale: {self._board.applied_version} is in force, send a greater one"
            )
        self._board.applied_version = request.version
        cap = min(request.batch_cap, self._max_batch)
        self._engine.set_batch_cap(cap)
        if request.sizes is not None:
            self._set_sizes(request.sizes)
        cores = request.cores_milli / 1000
        self._cores.apply(cores)
        # What must fit is the size that was asked for, even where the quota already holds the server below it.
        await self._engine.fits(cores)
        if self._board.applied_version != request.version:
            raise StaleVersionError(f"version {request.version} was overtaken by version {self._board.applied_version}")
        waited_s = self._clock() - began
        self._metrics.reconfigure.observe(waited_s)
        return ApplyAck(
            version=request.version,
            cores_milli=request.cores_milli,
            thread_budget=thread_budget(self._cores.in_force),
            batch_cap=cap,
            now_s=self._clock(),
            waited_s=waited_s,
        )

    def _set_sizes(self, sizes: SizeRange) -> None:
        candidates = sizes_milli(sizes.min_milli, sizes.max_milli, sizes.step_milli)
        self._planner.set_sizes(candidates)
        most = candidates[-1] / 1000
        self._engine.set_max_cores(most)
        lanes = min(self._max_lanes, thread_budget(most))
        if lanes != len(self._pool.lanes):
            self._scaling = asyncio.get_running_loop().create_task(self._scale(lanes, self._scaling))

    async def _scale(self, lanes: int, before: asyncio.Task[None] | None) -> None:
        """One change of the lanes after the other; a new lane must not hold up the acknowledgement."""
        if before is not None:
            await before
        await self._pool.scale(lanes)
