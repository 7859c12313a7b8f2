"""Watches whether any lane is healthy; readiness and liveness follow."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sponge_server.lifecycle import Lifecycle
from sponge_server.workers.interface import LanePool
from sponge_system.logs import event

__all__ = ["LaneWatch"]

log = logging.getLogger(__name__)


class LaneWatch:
    """Tells the lifecycle about the lanes, and others about the readiness that follows."""

    def __init__(self, pool: LanePool, lifecycle: Lifecycle, on_ready: Callable[[bool], None]) -> None:
        """`on_ready` is called with the new readiness when the lanes have changed it."""
        self._pool = pool
        self._lifecycle = lifecycle
        self._on_ready = on_ready

    def look(self, now: float) -> None:
        """Call this several times a second. `now`: monotonic seconds."""
        lifecycle = self._lifecycle
        ready, alive = lifecycle.ready, lifecycle.alive
        # Without a model there is no lane to lose.
        lifecycle.see_lanes(now, any(lane.healthy for lane in self._pool.lanes) or not lifecycle.serves)
        if lifecycle.ready != ready:
            level = logging.INFO if lifecycle.ready else logging.ERROR
            event(log, "lanes.back" if lifecycle.ready else "lanes.lost", level, lanes=len(self._pool.lanes))
            self._on_ready(lifecycle.ready)
        if alive and not lifecycle.alive:
            event(log, "lanes.given_up", logging.ERROR, lost_for_s=lifecycle.restart_s)
