"""Projector: projects the near future of the queue and keeps the frontier of sizes up to date.

It decides when a projection is worth its cost. What to do about the frontier is the operator's decision; without an
operator nobody reads it, and nothing is projected.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter

from sponge_core.control_api import FrontierPoint, Outcome
from sponge_core.deadlines import Due
from sponge_core.forecast import Arrival, Forecaster
from sponge_core.planning.frontier import project_frontier
from sponge_core.planning.projection import ProjectionInput, project
from sponge_core.planning.steady_state import load_cores
from sponge_server.control.news import News
from sponge_server.engine.jobs import Job
from sponge_server.engine.scheduler import Scheduler
from sponge_server.model_handle import ModelHandle
from sponge_server.observability.metrics import Metrics
from sponge_server.observability.observers import RequestObserver
from sponge_server.uploads import Uploads
from sponge_server.workers.interface import LanePool

__all__ = ["QUANTILES", "Projector"]

INTERVAL_S = 0.1
"""Between projections while requests come in, on a whole core."""

SHORTEST_GAP_S = 0.02
"""Between projections that an event requests, so a burst is seen this soon."""

EARLY_AT_ONCE = 3
"""So many projections that an event requests may come ahead of that gap, because the first sees only the first requests
of a burst. Later ones make up for it."""

EARLY_GAP_S = 0.01
"""Between those."""

QUIET_S = 0.8
"""Requests that come after so long without any are news, whatever their deadlines: the server may be parked."""

LONGEST_GAP_S = 1.0

COST_SHARE = 0.05
"""Projections use at most this share of the CPU in force."""

NEWS_GAP_S = 0.25
"""Between two reports that a smaller size suffices, or no longer does, because some loads change that all the time."""

WATCHED_S = 5.0
"""The frontier is kept up to date for this long after a reader has left, because it is expected back."""

HORIZON_S = 1.0
"""Arrivals are forecast this far ahead; the queue is then simulated until it is empty."""

LOAD_S = 1.0
"""How long the load in cores is taken to be the same; the number of pods follows it, which is not that quick."""

QUANTILES = (0.01, 0.10, 0.25, 0.50, 0.75, 0.99)


class Projector(RequestObserver):
    """Keeps the frontier.

    Attributes:
        frontier: expected misses and batch cap by size, ascending in cores; empty before the first projection.
        urgent: a miss is projected at the size in force that a larger size would avoid.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        uploads: Uploads,
        pool: LanePool,
        news: News,
        metrics: Metrics,
        *,
        sizes_milli: Sequence[int],
        max_batch: int,
        resize_s: float,
        clock: Callable[[], float],
    ) -> None:
        """A projector without a frontier.

        Args:
            news: told about every new frontier.
            sizes_milli: sizes that a plan may give, in millicores, ascending, not empty.
            max_batch: largest batch of any model, in rows.
            resize_s: seconds that a resize takes.
            clock: monotonic seconds.
        """
        self.frontier: list[FrontierPoint] = []
        self.urgent = False
        self._scheduler = scheduler
        self._uploads = uploads
        self._pool = pool
        self._news = news
        self._metrics = metrics
        self._sizes = tuple(sizes_milli)
        self._max_batch = max_batch
        self._resize_s = resize_s
        self._clock = clock
        self._forecaster = Forecaster()
        self._refused = Forecaster()
        self._cost_s = 0.0
        self._idle = True
        self._less = False
        self._less_told = -math.inf
        self._last = -math.inf
        self._earned_until = -math.inf
        self._active_at = -math.inf
        self._woken = False
        self._early: asyncio.TimerHandle | None = None
        self._readers = 0
        self._load_cores, self._load_at = 0.0, -math.inf
        self._left = -math.inf

    def set_sizes(self, sizes_milli: Sequence[int]) -> None:
        """Sets the sizes that a plan may give, in millicores, ascending, not empty."""
        self._sizes = tuple(sizes_milli)

    def set_max_batch(self, max_batch: int) -> None:
        """Sets the largest batch of any model, in rows."""
        self._max_batch = max_batch

    def resized(self) -> None:
        """Another size is in force: what the frontier says of the former one would ask for a resize too many."""
        if self.watched:
            self.project(self._clock())

    def request_arrived(self, job: Job) -> None:
        remaining_slo_s = job.due.deadline - job.arrival
        for _ in job.ids:
            self._forecaster.observe(job.arrival, remaining_slo_s, job.model.index, job.size)
        if self._clock() - self._active_at >= QUIET_S:
            self.requests_pending()
        self._active_at = self._clock()

    def request_refused(self, model: ModelHandle, due: Due, outcome: Outcome, now: float) -> None:
        left_s = due.deadline - now
        if outcome == "shed" and left_s > self._scheduler.least_s():  # else no other pod could answer it either
            self._refused.observe(now, left_s, model.index)

    def requests_pending(self) -> None:
        """Something came in that may miss its deadline: project before the next interval ends."""
        now = self._clock()
        self._woken = self._woken or now - self._active_at >= QUIET_S
        self._active_at = now
        if not self.watched or self._early is not None:
            return
        # The first request after a quiet time gets its projection at once, however small the server was parked.
        delay_s = 0.0 if self._woken else self._early_in_s(now)
        self._early = asyncio.get_running_loop().call_later(delay_s, self._project_early)

    @property
    def watched(self) -> bool:
        """Whether somebody reads the frontier, or did so within `WATCHED_S`. Otherwise it is not kept up to date."""
        return self._readers > 0 or self._clock() - self._left <= WATCHED_S

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Context in which somebody reads the frontier or waits for it."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            self._left = self._clock()

    def rate(self, now: float) -> float:
        """Arrivals per second, in rows."""
        return self._forecaster.rate(now)

    def refused_rate(self, now: float) -> float:
        """Requests per second that were refused for the load before them, and not for their deadline alone."""
        return self._refused.rate(now)

    def load_cores(self, now: float) -> float:
        """Cores that all requests take at the most efficient size and batch, with what the server itself uses.

        A refused request counts as if it were like those that were not.
        """
        if now - self._load_at >= LOAD_S:
            scheduler, rate = self._scheduler, self._forecaster.rate(now) + self.refused_rate(now)
            cores = [milli / 1000 for milli in self._sizes]
            arrivals = self._forecaster.forecast(now, HORIZON_S)
            batches = load_cores(arrivals, rate, scheduler.models, cores, self._max_batch)
            self._load_cores, self._load_at = (batches + scheduler.self_usage if rate else 0.0), now
        return self._load_cores

    def remaining_slo_s(self, now: float) -> list[float]:
        """Recent remaining SLO on arrival at `QUANTILES`; empty when nothing arrived."""
        return self._forecaster.remaining_quantiles(now, QUANTILES)

    def coming(self, now: float) -> list[Arrival]:
        """Uploads in flight and forecast arrivals, ascending.

        Uploads take the place of the first forecast arrivals, and their sizes, so that each request counts once.
        """
        uploads = self._uploads.arrivals(now)
        forecast = self._forecaster.forecast(now, HORIZON_S)
        if not uploads:
            return forecast
        sizes = [arrival.size for arrival in forecast[: len(uploads)]]
        sizes += [1.0] * (len(uploads) - len(sizes))
        sized = [
            Arrival(upload.at, upload.deadline, upload.model, size) for upload, size in zip(uploads, sizes, strict=True)
        ]
        return sorted([*sized, *forecast[len(uploads) :]], key=attrgetter("at", "deadline", "model"))

    def due(self, now: float) -> bool:
        """Whether it is time for the next projection."""
        return self.watched and now - self._last >= (LONGEST_GAP_S if self._idle else self._gap(INTERVAL_S)) - 1e-3

    def project(self, now: float) -> None:
        """Updates `frontier` and `urgent`, and publishes the change.

        It is news that a larger size is needed, that requests come after a quiet time, and that a smaller size suffices
        or no longer does.
        """
        if self._early is not None:  # this projection is the early one
            self._early.cancel()
            self._early = None
        self._last = now
        self._update(now)
        self._earned_until = max(self._earned_until, now) + self._gap(SHORTEST_GAP_S)
        news, self._woken = self.urgent or self._woken, False
        less = self._less_suffices()
        if less != self._less and now - self._less_told >= NEWS_GAP_S:
            self._less, self._less_told, news = less, now, True
        self._news.publish(news)

    def _less_suffices(self) -> bool:
        fewest = min(point.misses for point in self.frontier)
        needed = next(point for point in self.frontier if point.misses == fewest)
        return needed.cores_milli < round(self._scheduler.cores * 1000)

    def _project_early(self) -> None:
        self.project(self._clock())

    def _update(self, now: float) -> None:
        scheduler = self._scheduler
        running = scheduler.running(now)
        if not (running or self._uploads or len(scheduler.queue) or self._forecaster.rate(now)):
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
            overhead=scheduler.self_usage,
            slos=scheduler.queue.slos,
            sizes=scheduler.queue.sizes,
        )
        limits = scheduler.limits(max(1, len(self._pool.lanes)), self._max_batch)
        found = project_frontier(given, self._sizes, scheduler.models, limits)
        self.frontier, self.urgent = list(found.points), found.urgent
        if round(scheduler.cores * 1000) not in self._sizes:
            # A parked server, or one between two sizes: the frontier does not say what happens if it stays there.
            misses = project(given, scheduler.cores, scheduler.models, limits).misses
            self.urgent = any(p.misses < misses for p in self.frontier if p.cores_milli > scheduler.cores * 1000)
        self._cost_s = time.thread_time() - began
        self._metrics.projection.observe(self._cost_s)

    def _early_in_s(self, now: float) -> float:
        earned_at = self._earned_until - EARLY_AT_ONCE * self._gap(SHORTEST_GAP_S)
        return max(0.0, self._last + EARLY_GAP_S - now, earned_at - now)

    def _gap(self, shortest_s: float) -> float:
        cores = min(1.0, self._scheduler.cores)
        return min(LONGEST_GAP_S, max(shortest_s / cores, self._cost_s / (COST_SHARE * cores)))
