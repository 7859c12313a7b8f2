"""Gauges that are read only when somebody scrapes the metrics."""

from __future__ import annotations

from sponge_server.engine.cpu_quota import CpuQuota
from sponge_server.engine.scheduler import Scheduler
from sponge_server.observability.metrics import Metrics
from sponge_server.uploads import Uploads
from sponge_server.workers.interface import LanePool

__all__ = ["Gauges"]


class Gauges:
    """Copies the state of the server into its gauges."""

    def __init__(
        self,
        metrics: Metrics,
        scheduler: Scheduler,
        pool: LanePool,
        models: tuple[str, ...],
        quota: CpuQuota,
        uploads: Uploads,
    ) -> None:
        """`models`: names, by index."""
        self._metrics = metrics
        self._scheduler = scheduler
        self._pool = pool
        self._models = models
        self._quota = quota
        self._uploads = uploads

    def refresh(self) -> None:
        """Call before rendering the metrics."""
        metrics, scheduler, quota = self._metrics, self._scheduler, self._quota
        milli = quota.quota_milli
        metrics.quota.set(quota.in_force if milli is None else milli / 1000)
        metrics.thread_budget.set(scheduler.budget)
        metrics.threads_running.set(scheduler.threads_running)
        lanes = self._pool.lanes
        metrics.lanes.set(len(lanes))
        metrics.lanes_healthy.set(sum(lane.healthy for lane in lanes))
        metrics.lanes_running.set(scheduler.batches_running)
        waiting = scheduler.queue.deadlines
        for index, name in enumerate(self._models):
            metrics.queue_length.labels(name).set(len(waiting[index]) if index < len(waiting) else 0)
        metrics.batch_cap.set(scheduler.batch_cap)
        metrics.profile_drifted.set(scheduler.drifted)
        metrics.uploads.set(len(self._uploads))
        metrics.set_throttled(quota.throttled_s)
