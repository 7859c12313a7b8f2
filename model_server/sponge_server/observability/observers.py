"""Who is told what becomes of every request and batch: the seam for logs and traces. Without one, nothing is done.

The engine calls these at the moment things happen; a witness decides nothing and must not raise. Knows nothing of how
anything is written down.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from sponge_core.control_api import Outcome
from sponge_server.deadlines import Due
from sponge_server.observability.logs import event

if TYPE_CHECKING:
    from sponge_server.engine.engine import Job
    from sponge_server.engine.scheduler import Batch

__all__ = ["AccessLog", "Witness"]

log = logging.getLogger(__name__)


class Witness(Protocol):
    """What can be seen. Times are on the server's monotonic clock, in seconds."""

    def launched(self, batch: Batch) -> None:
        """A batch starts."""
        ...

    def finished(self, batch: Batch, now: float) -> None:
        """A batch is over; also when its lane was lost."""
        ...

    def ended(self, model: str, job: Job, outcome: Outcome, now: float) -> None:
        """A request that was queued is over; its batch, if it got as far, has been launched before."""
        ...

    def lost(self, model: str, due: Due, outcome: Outcome, now: float) -> None:
        """A request that never got as far as the queue is over."""
        ...


class AccessLog:
    """One event a request, at level debug."""

    def launched(self, batch: Batch) -> None:
        pass

    def finished(self, batch: Batch, now: float) -> None:
        pass

    def ended(self, model: str, job: Job, outcome: Outcome, now: float) -> None:
        if log.isEnabledFor(logging.DEBUG):
            batch = job.batch
            event(
                log,
                f"request.{outcome}",
                logging.DEBUG,
                model=model,
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

    def lost(self, model: str, due: Due, outcome: Outcome, now: float) -> None:
        if log.isEnabledFor(logging.DEBUG):
            slack_ms = (due.deadline - now) * 1000
            slo_ms = due.limit_s * 1000
            event(
                log,
                f"request.{outcome}",
                logging.DEBUG,
                model=model,
                slo_class=due.slo_class,
                slo_ms=slo_ms,
                slack_ms=slack_ms,
                queued=False,
            )
