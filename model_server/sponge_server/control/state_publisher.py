"""What the server tells the operator, and when: a snapshot on request, at once when a miss is projected.

Reads the other parts and changes none. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from sponge_core.control_api import LaneState, StateSnapshot
from sponge_server.control.projector import Planner
from sponge_server.engine.cpu_quota import Cores
from sponge_server.engine.engine import Engine
from sponge_server.lifecycle import Status
from sponge_server.model_handle import ServedModel
from sponge_server.uploads import Uploads
from sponge_server.workers.interface import LanePool

__all__ = ["StateBoard"]


class StateBoard:
    """Numbers the snapshots and lets readers wait for news."""

    def __init__(
        self,
        *,
        models: Sequence[ServedModel],
        status: Status,
        engine: Engine,
        pool: LanePool,
        planner: Planner,
        cores: Cores,
        uploads: Uploads,
        clock: Callable[[], float],
    ) -> None:
        self.applied_version = 0
        self._models = models
        self._status = status
        self._engine = engine
        self._pool = pool
        self._planner = planner
        self._cores = cores
        self._uploads = uploads
        self._clock = clock
        self._version = 0
        self._news_version = 0
        self._news = asyncio.Event()

    def publish(self, news: bool) -> None:
        """The frontier was renewed, or the phase changed; `news` answers every waiting reader at once."""
        self._version += 1
        if news:
            self._news_version = self._version
            self._news.set()
            self._news = asyncio.Event()

    async def read(self, since: int | None, wait_s: float) -> StateSnapshot:
        """The state now; with `since` > 0, first waits up to `wait_s` seconds for news later than that version.

        A `since` from before a restart of the server, larger than any version here, waits like one that is up to date.
        """
        if not self._planner.watched:
            self._planner.project(self._clock())
            self.publish(news=self._planner.urgent)
        with self._planner.watching():
            if since and self._news_version <= since and not self._status.ending:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), wait_s)
            return self.snapshot()

    def snapshot(self) -> StateSnapshot:
        """One consistent view; counts the version up."""
        # Who waits for a resize asks for this: the quota of the last beat would keep him waiting for the next one.
        self._cores.poll()
        self._version += 1
        now = self._clock()
        engine, scheduler = self._engine, self._engine.scheduler
        slack = [request.deadline - now for request in scheduler.queue]
        last = len(slack) - 1
        busy = engine.running
        idle = not busy and not engine.jobs and not len(self._uploads)
        return StateSnapshot(
            version=self._version,
            applied_version=self.applied_version,
            now_s=now,
            ready=self._status.ready,
            draining=self._status.ending,
            models=[model.name for model in self._models],
            cores_milli=max(1, round(self._cores.in_force * 1000)),
            cpu_quota_milli=self._cores.quota_milli,
            thread_budget=scheduler.budget,
            threads_running=scheduler.threads_running,
            batch_cap=scheduler.batch_cap,
            lanes=[
                LaneState(
                    lane=lane.id, threads=batch.threads, batch=len(batch.requests), busy_for_s=now - batch.started
                )
                if (batch := busy.get(lane.id))
                else LaneState(lane=lane.id, threads=0, batch=0, busy_for_s=0)
                for lane in self._pool.lanes
            ],
            queue_length=len(slack),
            queue_slack_s=[slack[last * quarter // 4] for quarter in range(5)] if slack else [],
            uploads_in_flight=len(self._uploads),
            arrival_rate_rps=self._planner.rate(now),
            remaining_slo_s=self._planner.remaining_slo_s(now),
            outcomes=dict(engine.books.outcomes),
            latency_p99_s=engine.books.latencies.quantile(now, 0.99),
            throttled_s=self._cores.throttled_s,
            prediction_ratio=max(scheduler.ratios),
            profile_drifted=scheduler.drifted,
            idle_for_s=max(0.0, now - engine.last_activity) if idle else 0.0,
            urgent=self._planner.urgent,
            frontier=self._planner.frontier,
        )
