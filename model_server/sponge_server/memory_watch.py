"""Watches the server's memory and its limit, which an operator may change in place.

Under a smaller limit lanes keep less memory between two batches, and batches stay smaller, whoever has changed it. What
the server needs was measured at startup. A batch that needs more than is left is refused it, and fails alone.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

from sponge_core.control_api import MemoryState
from sponge_server.observability.metrics import Metrics
from sponge_server.startup.memory_plan import Fitted
from sponge_server.workers.interface import LanePool
from sponge_system.cgroup import own_cgroup, read_memory_left, read_memory_limit, read_memory_used
from sponge_system.logs import event
from sponge_system.memory_growth import RESERVE_BYTES, limit_growth

__all__ = ["MemoryWatch"]

log = logging.getLogger(__name__)

INTERVAL_S = 0.5

_SPARE_BYTES = RESERVE_BYTES // 4
"""Of what is left, for page tables and the server's own process. Most of the reserve is for the lanes' allocator, which
asks for 64 MiB more than it needs."""


class MemoryWatch:
    """Reads the memory twice a second.

    Attributes:
        state: for the operator; None without a limit, or where the memory was not measured.
        most_batch: rows of the largest batch that the limit in force has room for.
    """

    def __init__(self, fitted: Fitted, pool: LanePool, metrics: Metrics, cgroup: Path | None = None) -> None:
        """`cgroup`: where to read; by default the memory cgroup of this process."""
        self.state: MemoryState | None = None
        self.most_batch = max(fitted.batches)
        self._fitted = fitted
        self._pool = pool
        self._metrics = metrics
        measured = fitted.model is not None and fitted.limit_bytes is not None
        self._cgroup = (cgroup or own_cgroup("memory")) if measured else None
        self._looked = -math.inf
        pool.add_listener(self._limit_lanes)  # a new lane runs no batch before

    def use(self, fitted: Fitted) -> None:
        """Other models are loaded now: counts on what they need."""
        self._fitted = replace(fitted, limit_bytes=self._fitted.limit_bytes)
        self._metrics.set_memory(fitted.model, None)
        self._follow()
        self._looked = -math.inf

    def look(self, now: float) -> None:
        """Call this several times a second. `now`: monotonic seconds."""
        if self._cgroup is None or now - self._looked < INTERVAL_S:
            return
        self._looked = now
        limit, used = read_memory_limit(self._cgroup), read_memory_used(self._cgroup)
        model = self._fitted.model
        if limit is None or used is None or model is None:
            self.state = None
            return
        if limit != self._fitted.limit_bytes:
            event(log, "memory.limit_changed", limit_mib=limit >> 20, used_mib=used >> 20)
            self._fitted = replace(self._fitted, limit_bytes=limit)
            self._metrics.memory_limit.set(limit)
            self._follow()
        self._limit_lanes()
        self.state = MemoryState(
            limit=limit,
            used=used,
            base=model.base_bytes + RESERVE_BYTES,
            lane=model.lane_bytes,
            item=model.item_bytes,
        )

    def _limit_lanes(self) -> None:
        """Lanes may grow by what is left now; the process that they are forked from does not, and must never fail."""
        left = None if self._cgroup is None else read_memory_left(self._cgroup)
        if left is not None:
            for pid in self._pool.lane_pids:
                limit_growth(pid, left - _SPARE_BYTES)

    def _follow(self) -> None:
        """Lanes keep what the limit has room for, and batches stay within it."""
        model, limit = self._fitted.model, self._fitted.limit_bytes
        self.most_batch = max(self._fitted.batches)
        self._pool.keep(self._fitted.keep_bytes)
        if model is not None and limit is not None:
            lanes = len(self._pool.lanes)
            fits = model.fit(limit, lanes, self.most_batch)
            self.most_batch = fits[1] if fits is not None and fits[0] == lanes else 1
