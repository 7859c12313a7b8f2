"""Access log: one event per request and per batch, at level debug."""

from __future__ import annotations

import logging

from sponge_core.control_api import Outcome
from sponge_core.deadlines import Due
from sponge_server.engine.jobs import Batch, Job
from sponge_server.model_handle import ModelHandle
from sponge_server.observability.observers import RequestObserver
from sponge_server.workers.interface import LaneResult
from sponge_system.logs import event

__all__ = ["AccessLog"]

log = logging.getLogger(__name__)


class AccessLog(RequestObserver):
    """Logs what became of every request and how long every batch took."""

    def batch_measured(self, batch: Batch, result: LaneResult, ratio: float, now: float) -> None:  # noqa: ARG002
        event(
            log,
            "batch.done",
            logging.DEBUG,
            rows=len(batch.requests),
            size=max(request.size for request in batch.requests),
            threads=batch.threads,
            slack_ms=(batch.requests[0].deadline - batch.started) * 1000,
            predicted_ms=batch.predicted_s * 1000,
            took_ms=(now - batch.started) * 1000,
            lane_ms=result.batch_s * 1000,
            cpu_ms=result.cpu_s * 1000,
        )

    def request_ended(self, job: Job, outcome: Outcome, now: float) -> None:
        batch = job.batch
        event(
            log,
            f"request.{outcome}",
            logging.DEBUG,
            model=job.model.info.name,
            slo_class=job.due.slo_class,
            slo_ms=job.due.limit_s * 1000,
            slack_ms=(job.due.deadline - now) * 1000,
            rows=len(job.ids),
            network_ms=(job.arrival - job.due.sent) * 1000,
            queue_ms=job.queue_s * 1000,
            batch_ms=job.batch_s * 1000,
            infer_ms=job.infer_s * 1000,
            batch=None if batch is None else len(batch.requests),
            threads=None if batch is None else batch.threads,
        )

    def request_refused(self, model: ModelHandle, due: Due, outcome: Outcome, now: float) -> None:
        event(
            log,
            f"request.{outcome}",
            logging.DEBUG,
            model=model.info.name,
            slo_class=due.slo_class,
            slo_ms=due.limit_s * 1000,
            slack_ms=(due.deadline - now) * 1000,
            queued=False,
        )
