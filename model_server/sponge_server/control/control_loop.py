"""The server's control loop: reads lanes, quota and the server's own CPU use, and projects when it is time.

One timer for all of it, so that an idle server wakes up ten times a second and no more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sponge_server.control.projector import Projector
from sponge_server.control.reconfigure import Reconfigurer
from sponge_server.engine.cpu_quota import CpuQuota
from sponge_server.engine.engine import Engine
from sponge_server.engine.self_usage import SelfUsage
from sponge_server.lane_watch import LaneWatch
from sponge_server.memory_watch import MemoryWatch
from sponge_server.observability.metrics import Metrics

__all__ = ["ControlLoop"]

log = logging.getLogger(__name__)

INTERVAL_S = 0.1


class ControlLoop:
    """Runs every `INTERVAL_S`."""

    def __init__(
        self,
        quota: CpuQuota,
        engine: Engine,
        projector: Projector,
        reconfigurer: Reconfigurer,
        metrics: Metrics,
        lanes: LaneWatch,
        memory: MemoryWatch,
        *,
        clock: Callable[[], float],
        cpu_clock: Callable[[], float],
    ) -> None:
        """`clock` gives monotonic seconds, `cpu_clock` the CPU seconds that this process has used."""
        self._quota = quota
        self._engine = engine
        self._projector = projector
        self._reconfigurer = reconfigurer
        self._metrics = metrics
        self._lanes = lanes
        self._memory = memory
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._self_usage = SelfUsage(clock(), cpu_clock())

    async def run(self) -> None:
        """Loops until cancelled."""
        due = self._clock()
        while True:
            due = max(due + INTERVAL_S, self._clock())
            await asyncio.sleep(due - self._clock())
            now = self._clock()
            self._metrics.loop_lag.observe(max(0.0, now - due))
            try:
                self._look(now)
            except Exception:
                log.exception("control.bug")

    def _look(self, now: float) -> None:
        self._lanes.look(now)
        self._memory.look(now)
        self._quota.poll()
        self._reconfigurer.look()
        # Without a quota, this process runs on other cores than the batches.
        if self._self_usage.observe(now, self._cpu_clock()) and self._quota.quota_milli is not None:
            self._engine.set_self_usage(self._self_usage.cores)
        if self._projector.due(now):
            self._projector.project(now)
