"""Applies the operator's messages: size, batch cap and range of sizes, in order, each acknowledged.

A larger size takes effect at once. A smaller one binds new batches at once, and is acknowledged when the threads in use
fit it: the quota can then shrink without throttling a batch.

Where nobody applies a size, the quota rules, and admission counts on no more than the quota. That is so before the
first message, after a release, and when the operator has been silent for too long.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sponge_core.control_api import ApplyAck, ApplyRequest, ReleaseAck, ReleaseRequest, SizeRange
from sponge_core.cpu_sharing import thread_budget
from sponge_core.errors import SpongeError
from sponge_server.backoff import backoff_s
from sponge_server.control.operator_watch import OperatorWatch
from sponge_server.control.projector import Projector
from sponge_server.control.state_publisher import StatePublisher
from sponge_server.engine.cpu_quota import CpuQuota
from sponge_server.engine.engine import Engine
from sponge_server.memory_watch import MemoryWatch
from sponge_server.observability.metrics import Metrics
from sponge_server.settings import sizes_milli
from sponge_server.workers.interface import LanePool
from sponge_system.logs import event

__all__ = ["Reconfigurer", "StaleVersionError"]

log = logging.getLogger(__name__)


class StaleVersionError(SpongeError):
    """A message that is not newer than the one in force, or was overtaken by another while it waited."""


class Reconfigurer:
    """The only writer of cores, batch cap and sizes after startup."""

    def __init__(
        self,
        *,
        publisher: StatePublisher,
        operator: OperatorWatch,
        engine: Engine,
        quota: CpuQuota,
        projector: Projector,
        pool: LanePool,
        metrics: Metrics,
        memory: MemoryWatch,
        max_batch: int,
        max_lanes: int,
        clock: Callable[[], float],
    ) -> None:
        self._publisher = publisher
        self._operator = operator
        self._engine = engine
        self._quota = quota
        self._projector = projector
        self._pool = pool
        self._metrics = metrics
        self._memory = memory
        self._max_batch = self._cap = max_batch
        self._max_lanes = max_lanes
        self._clock = clock
        self._lanes = len(pool.lanes)
        self._scaling: asyncio.Task[None] | None = None
        engine.set_driven(False)

    def set_most(self, max_batch: int, max_lanes: int) -> None:
        """Sets the largest batch of any model and the most lanes, after other models were loaded."""
        if self._cap == self._max_batch:  # nobody has set another cap
            self._cap = max_batch
        self._max_batch, self._max_lanes = max_batch, max_lanes
        self._set_cap(min(self._cap, max_batch))

    async def apply(self, request: ApplyRequest) -> ApplyAck:
        """Applies a message and returns its acknowledgement.

        Raises StaleVersionError when `request.version` is not greater than the one in force.
        """
        began = self._clock()
        self._take_over(request.version)
        self._operator.fallback_after_s = request.fallback_after_s
        self._set_cap(min(request.batch_cap, self._max_batch))
        if request.sizes is not None:
            self._set_sizes(request.sizes)
        cores = request.cores_milli / 1000
        self._quota.apply(cores)
        self._engine.set_driven(True)
        # The threads must fit the requested size, even where the quota already keeps the server below it.
        await self._engine.fits(cores)
        if self._publisher.applied_version != request.version:
            raise StaleVersionError(
                f"version {request.version} was overtaken by version {self._publisher.applied_version}"
            )
        waited_s = self._clock() - began
        self._metrics.reconfigure.observe(waited_s)
        return ApplyAck(
            version=request.version,
            cores_milli=request.cores_milli,
            thread_budget=thread_budget(self._quota.in_force),
            batch_cap=self._engine.scheduler.batch_cap,
            now_s=self._clock(),
            waited_s=waited_s,
        )

    def release(self, request: ReleaseRequest) -> ReleaseAck:
        """Nobody applies a size from now on: the server follows its quota.

        Raises StaleVersionError when `request.version` is not greater than the one in force.
        """
        self._take_over(request.version)
        self._operator.released()
        self._follow_quota()
        return ReleaseAck(
            version=request.version, cores_milli=max(1, round(self._quota.in_force * 1000)), now_s=self._clock()
        )

    def look(self) -> None:
        """Follows the memory limit, and the quota once the operator is gone. Call it regularly."""
        self._set_cap(self._cap)
        gone_s = self._operator.gone_s
        if gone_s and self._quota.applied is not None:
            # A late message of the lost operator must not win over this.
            self._publisher.applied_version += 1
            self._follow_quota()
            size = f"{self._quota.in_force:g}"
            event(log, "operator.silent", logging.WARNING, for_s=round(gone_s), cores=size)

    def _take_over(self, version: int) -> None:
        """A message has come: it is the newest one from now on."""
        in_force = self._publisher.applied_version
        if version <= in_force:
            raise StaleVersionError(f"version {version} is stale: {in_force} is in force, send a greater one")
        self._publisher.applied_version = version
        if self._operator.gone_s:
            event(log, "operator.heard", silent_s=round(self._operator.gone_s))
        self._operator.heard()

    def _follow_quota(self) -> None:
        self._quota.release()
        self._set_cap(self._max_batch)
        self._engine.set_driven(False)

    def _set_cap(self, cap: int) -> None:
        """Sets the batch cap, as far as the memory limit has room for it."""
        self._cap, within = cap, min(cap, self._memory.most_batch)
        if within != self._engine.scheduler.batch_cap:
            self._engine.set_batch_cap(within)

    def _set_sizes(self, sizes: SizeRange) -> None:
        candidates = sizes_milli(sizes.min_milli, sizes.max_milli, sizes.step_milli)
        self._projector.set_sizes(candidates)
        most = candidates[-1] / 1000
        self._engine.set_max_cores(most)
        self._lanes = min(self._max_lanes, thread_budget(most))
        if self._scaling is None or self._scaling.done():
            self._scaling = asyncio.get_running_loop().create_task(self._scale())

    async def _scale(self) -> None:
        """Changes the lanes until they are as many as were last wanted; no acknowledgement waits for it."""
        attempt = 0
        while len(self._pool.lanes) != self._lanes:
            lanes = self._lanes
            await asyncio.sleep(backoff_s(attempt))
            try:
                await self._pool.scale(lanes)
                attempt = 0
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not be the last try
                attempt += 1
                event(log, "lanes.not_scaled", logging.ERROR, lanes=lanes, attempt=attempt, error=repr(error))
