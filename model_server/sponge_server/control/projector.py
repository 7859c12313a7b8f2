"""The planner's half that lives next to the queue: projects the near future and keeps the frontier fresh.

The only module that knows the core's forecast and projection. Decides when a projection is worth its cost, never what
to do about it: that is the operator's half. Without an operator nobody reads the frontier, and none is projected.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter

from sponge_core.control_api import FrontierPoint
from sponge_core.forecast import Arrival, Forecaster
from sponge_core.planning.frontier import project_frontier
from sponge_core.planning.projection import ProjectionInput, project
from sponge_server.engine.scheduler import Scheduler
from sponge_server.observability.metrics import Metrics
from sponge_server.uploads import Uploads

__all__ = ["QUANTILES", "Planner"]

INTERVAL_S = 0.1
"""Between projections while requests come in, on a whole core."""

SHORTEST_GAP_S = 0.02
"""Between projections that an event asked for: a burst is seen this soon."""

LONGEST_GAP_S = 1.0

COST_SHARE = 0.05
"""Projections use at most this share of the CPU in force."""

WATCHED_S = 5.0
"""After a reader has left, the frontier is kept fresh for so long: he is expected back."""

HORIZON_S = 1.0
"""How far ahead arrivals are forecast; the queue is then played to its end."""

QUANTILES = (0.01, 0.10, 0.25, 0.50, 0.75, 0.99)


class Planner:
    """Keeps the frontier. `project` when `due`; `request_soon` is told how long to wait for an early one."""

    def __init__(
        self,
        scheduler: Scheduler,
        uploads: Uploads,
        metrics: Metrics,
        *,
        sizes_milli: Sequence[int],
        max_batch: int,
        resize_s: float,
        lanes: Callable[[], int],
        clock: Callable[[], float],
        request_soon: Callable[[float], None],
    ) -> None:
        self.frontier: list[FrontierPoint] = []
        self.urgent = False
        self._scheduler = scheduler
        self._uploads = uploads
        self._metrics = metrics
        self._sizes = tuple(sizes_milli)
        self._max_batch = max_batch
        self._resize_s = resize_s
        self._lanes = lanes
        self._clock = clock
        self._request_soon = request_soon
        self._forecaster = Forecaster()
        self._cost_s = 0.0
        self._idle = True
        self._last = -math.inf
        self._readers = 0
        self._left = -math.inf

    def set_sizes(self, sizes_milli: Sequence[int]) -> None:
        """The sizes that a plan may give from now on, ascending, not empty."""
        self._sizes = tuple(sizes_milli)

    def arrived(self, now: float, remaining_slo_s: float, rows: int, model: int) -> None:
        for _ in range(rows):
            self._forecaster.observe(now, remaining_slo_s, model)

    def waiting(self) -> None:
        """Something came in that may not be met: project before the next interval ends."""
        if not self.watched:
            return
        # The first request after a rest finds its projection due at once, however small the server was parked.
        self._request_soon(0.0 if self._idle else max(0.0, self._last + self._gap(SHORTEST_GAP_S) - self._clock()))

    @property
    def watched(self) -> bool:
        """Whether somebody reads the frontier, or did a moment ago. While nobody does it grows old."""
        return self._readers > 0 or self._clock() - self._left <= WATCHED_S

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While somebody waits for what the frontier will say."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            self._left = self._clock()

    def rate(self, now: float) -> float:
        """Arrivals per second, in rows."""
        return self._forecaster.rate(now)

    def remaining_slo_s(self, now: float) -> list[float]:
        """Recent remaining SLO on arrival at `QUANTILES`; empty when nothing arrived."""
        return self._forecaster.remaining_quantiles(now, QUANTILES)

    def coming(self, now: float) -> list[Arrival]:
        """Uploads in flight and forecast arrivals, ascending: the uploads are the first of the forecast and count
        once."""
        uploads = self._uploads.arrivals(now)
        forecast = self._forecaster.forecast(now, HORIZON_S)
        if not uploads:
            return forecast
        return sorted([*uploads, *forecast[len(uploads) :]], key=attrgetter("at", "deadline", "model"))

    def due(self, now: float) -> bool:
        return self.watched and now - self._last >= (LONGEST_GAP_S if self._idle else self._gap(INTERVAL_S)) - 1e-3

    def project(self, now: float) -> None:
        """Renews `frontier` and `urgent`."""
        self._last = now
        scheduler = self._scheduler
        running = scheduler.running(now)
        if not (running or len(self._uploads) or len(scheduler.queue) or self._forecaster.rate(now)):
            self.urgent = False
            self.frontier = [FrontierPoint(cores_milli=self._sizes[0], batch_cap=self._max_batch, misses=0)]
            self._cost_s, self._idle = 0.0, True
            return
        self._idle = False
        began = time.thread_time()
        given = ProjectionInput(
            now=now,
            queued=scheduler.queue.deadlines,
            running=running,
            arrivals=self.coming(now),
            cores=scheduler.cores,
            resize_s=self._resize_s,
            overhead=scheduler.overhead,
            slos=scheduler.queue.slos,
        )
        limits = scheduler.limits(max(1, self._lanes()), self._max_batch)
        found = project_frontier(given, self._sizes, scheduler.models, limits)
        self.frontier, self.urgent = list(found.points), found.urgent
        if round(scheduler.cores * 1000) not in self._sizes:
            # A parked server, or one between two sizes: the frontier does not hold what would happen if it stayed so.
            misses = project(given, scheduler.cores, scheduler.models, limits).misses
            self.urgent = any(p.misses < misses for p in self.frontier if p.cores_milli > scheduler.cores * 1000)
        self._cost_s = time.thread_time() - began
        self._metrics.projection.observe(self._cost_s)

    def _gap(self, shortest_s: float) -> float:
        cores = min(1.0, self._scheduler.cores)
        return min(LONGEST_GAP_S, max(shortest_s / cores, self._cost_s / (COST_SHARE * cores)))
