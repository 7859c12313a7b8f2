"""State publisher: snapshots of the server for the operator, on request, or at once when a miss is projected."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from sponge_core.control_api import LaneState, LatencyCoefficients, StateSnapshot
from sponge_server.control.news import News
from sponge_server.control.operator_watch import OperatorWatch
from sponge_server.control.projector import Projector
from sponge_server.engine.cpu_quota import CpuQuota
from sponge_server.engine.engine import Engine
from sponge_server.lifecycle import Lifecycle
from sponge_server.memory_watch import MemoryWatch
from sponge_server.observability.request_stats import RequestStats
from sponge_server.uploads import Uploads
from sponge_server.workers.interface import LanePool

__all__ = ["StatePublisher"]


QUOTA_POLL_S = 0.004
"""Between two looks at the quota while somebody waits for it; a look costs some microseconds."""


class StatePublisher:
    """Builds the snapshots.

    Attributes:
        applied_version: version of the newest message in force; 0 before the first.
    """

    def __init__(
        self,
        *,
        lifecycle: Lifecycle,
        engine: Engine,
        stats: RequestStats,
        pool: LanePool,
        projector: Projector,
        news: News,
        operator: OperatorWatch,
        quota: CpuQuota,
        uploads: Uploads,
        memory: MemoryWatch,
        clock: Callable[[], float],
    ) -> None:
        self.applied_version = 0
        self._lifecycle = lifecycle
        self._engine = engine
        self._stats = stats
        self._pool = pool
        self._projector = projector
        self._news = news
        self._operator = operator
        self._quota = quota
        self._uploads = uploads
        self._memory = memory
        self._clock = clock

    @property
    def cores_milli(self) -> int:
        """The size in force."""
        return max(1, round(self._quota.in_force * 1000))

    async def read(self, since: int | None, wait_s: float) -> StateSnapshot:
        """The state now. With `since` > 0, waits up to `wait_s` seconds for news later than that version."""
        if not self._projector.watched:
            self._projector.project(self._clock())
        # Whoever knows an earlier state follows the server: that is its operator.
        polling = self._operator.polling() if since else contextlib.nullcontext()
        with self._projector.watching(), polling:
            if since and not self._lifecycle.ending:
                await self._news.wait(since, wait_s)
            return self.snapshot()

    async def read_at_quota(self, milli: int, wait_s: float) -> StateSnapshot:
        """The state once the quota of the cgroup is `milli`, or after `wait_s` seconds."""
        end = self._clock() + wait_s
        self._quota.poll()
        while self._quota.quota_milli != milli and not self._lifecycle.ending and self._clock() < end:
            await asyncio.sleep(QUOTA_POLL_S)
            self._quota.poll()
        return self.snapshot()

    def snapshot(self) -> StateSnapshot:
        """One consistent view, with a version number of its own."""
        # A reader that waits for a resize needs the quota of now, not of the control loop's last look.
        self._quota.poll()
        version = self._news.next_version()
        now = self._clock()
        engine, scheduler = self._engine, self._engine.scheduler
        slack = [request.deadline - now for request in scheduler.queue]
        last = len(slack) - 1
        busy = engine.running
        idle = not busy and not engine.jobs and not self._uploads
        return StateSnapshot(
            version=version,
            applied_version=self.applied_version,
            applied_milli=None if self._quota.applied is None else round(self._quota.applied * 1000),
            now_s=now,
            ready=self._lifecycle.ready,
            draining=self._lifecycle.ending,
            models=list(self._lifecycle.models),
            cores_milli=self.cores_milli,
            cpu_quota_milli=self._quota.quota_milli,
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
            arrival_rate_rps=self._projector.rate(now),
            refused_rps=self._projector.refused_rate(now),
            load_cores=self._projector.load_cores(now),
            remaining_slo_s=self._projector.remaining_slo_s(now),
            outcomes=dict(self._stats.outcomes),
            latency_p99_s=self._stats.latencies.quantile(now, 0.99),
            throttled_s=self._quota.throttled_s,
            prediction_ratio=max(scheduler.ratios),
            profile_drifted=scheduler.drifted,
            idle_for_s=max(0.0, now - engine.last_activity) if idle else 0.0,
            urgent=self._projector.urgent,
            frontier=self._projector.frontier,
            memory=self._memory.state,
            profile=LatencyCoefficients.of(scheduler.models[0]) if len(scheduler.models) == 1 else None,
        )
