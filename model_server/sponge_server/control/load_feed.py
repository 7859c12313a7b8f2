"""Load feed: tells the fronts before this server what waits and runs here, each time that it changes.

A report is written once for all readers, at most every `GAP_S`. While nobody reads, nothing is written; while nothing
changes, a reader hears every `SILENCE_S` that the server is there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from heapq import merge
from itertools import islice
from typing import Any

from sponge_core.control_api import LatencyCoefficients, Outcome
from sponge_core.deadlines import Due
from sponge_core.routing.pod_load import MOST_LISTED, PodLoad, RunningBatch
from sponge_server.engine.jobs import Batch, Job
from sponge_server.engine.scheduler import Scheduler
from sponge_server.fronts import FrontNumbers
from sponge_server.lifecycle import Lifecycle
from sponge_server.model_handle import ModelHandle
from sponge_server.observability.observers import RequestObserver
from sponge_server.protocol.problems import ProblemError, retry_after
from sponge_server.uploads import Uploads
from sponge_server.workers.interface import LanePool

__all__ = ["LoadFeed"]

GAP_S = 0.02
"""Between two reports. A batch takes longer, and two fronts cost less than 2 % of a core at this pace."""

SILENCE_S = 1.0
"""The longest time between two reports: a front that hears nothing for longer takes the server for lost."""

MOST_READERS = 32
"""Fronts that read at once. A service has two or three, 20 at most, and some more while those are replaced."""


class LoadFeed(RequestObserver):
    """Writes the reports, and wakes their readers."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        models: Sequence[ModelHandle],
        uploads: Uploads,
        pool: LanePool,
        lifecycle: Lifecycle,
        fronts: FrontNumbers,
        clock: Callable[[], float],
    ) -> None:
        """`clock` gives monotonic seconds."""
        self._scheduler = scheduler
        self._policy = models[0].policy
        self._uploads = uploads
        self._pool = pool
        self._lifecycle = lifecycle
        self._fronts = fronts
        self._clock = clock
        self._size = 1.0  # of the request that came last
        self._readers = 0
        self._written_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._report = 0  # number of the newest one that was written for all
        self._line = b""
        self._news = asyncio.Event()

    def request_arrived(self, job: Job) -> None:
        self._size = job.size
        self.changed()

    def requests_pending(self) -> None:
        self.changed()

    def batch_started(self, batch: Batch) -> None:  # noqa: ARG002
        self.changed()

    def batch_finished(self, batch: Batch, now: float) -> None:  # noqa: ARG002
        self.changed()

    def request_ended(self, job: Job, outcome: Outcome, now: float) -> None:  # noqa: ARG002
        self.changed()

    def request_refused(self, model: ModelHandle, due: Due, outcome: Outcome, now: float) -> None:  # noqa: ARG002
        self.changed()

    def changed(self) -> None:
        """Something is not as last reported."""
        if self._readers and self._timer is None:
            delay_s = max(0.0, self._written_at + GAP_S - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._write)

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """The reports of one reader, a line of JSON each, until the server stops.

        Raises ProblemError 503 before the first line when too many read already.
        """
        if self._readers >= MOST_READERS:
            text = f"{MOST_READERS} fronts read the load already, and more may not"
            raise ProblemError(503, "too-many-fronts", text, retry_after(SILENCE_S))
        self._readers += 1
        try:
            seen = self._report
            yield self._text()
            while self._lifecycle.phase != "draining":
                if seen == self._report:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), SILENCE_S)
                yield self._text() if seen == self._report else self._line
                seen = self._report
        finally:
            self._readers -= 1

    def read(self) -> PodLoad:
        """The load now."""
        scheduler, now = self._scheduler, self._clock()
        # A request that is on its way is work of this pod, too, and its front does not count it any more.
        coming = sorted((each.deadline, each.started) for each in self._uploads)
        waiting = ((each.deadline, each.arrival) for each in scheduler.queue)
        listed = list(islice(merge(waiting, coming), MOST_LISTED))
        sizes = [len(batch.requests) for batch in scheduler.batches]
        return PodLoad(
            now_s=now,
            accepting=self._lifecycle.ready,
            cores_milli=max(1, round(scheduler.batch_cores * 1000)),
            most_milli=max(1, round(scheduler.most_batch_cores * 1000)),
            batch_cap=scheduler.batch_cap,
            lanes=max(1, len(self._pool.lanes)),
            slack_s=[round(deadline - now, 4) for deadline, _ in listed],
            had_s=[round(deadline - since, 4) for deadline, since in listed],
            rate_rps=round(sum(scheduler.queue.rates(now)), 3),
            more=len(scheduler.queue) + len(coming) - len(listed),
            running=[
                RunningBatch(
                    requests=size,
                    threads=each.threads,
                    left_s=round(each.left_s, 5),
                    slack_s=round(each.deadline - now, 4),
                )
                for each, size in zip(scheduler.running(now), sizes, strict=True)
            ],
            slo_s={"": self._policy.default_s, **self._policy.classes},
            received=self._fronts.read(),
            **self._latency(),
        )

    def _latency(self) -> dict[str, Any]:
        """What the rule knows of batch times; nothing with several models, which no rule of a front tells apart."""
        models = self._scheduler.models
        if len(models) != 1:
            return {}
        sizes = self._scheduler.queue.sizes
        waiting = sorted(sizes[0]) if sizes else ()
        model = models[0].at(waiting[len(waiting) // 2] if waiting else self._size)
        return {
            "latency": LatencyCoefficients.of(model),
            "error": max(0.0, model.error),
            "interference": max(0.0, model.interference),
        }

    def _text(self) -> bytes:
        return self.read().model_dump_json(exclude_defaults=True).encode() + b"\n"

    def _write(self) -> None:
        self._timer = None
        self._written_at = self._clock()
        self._line = self._text()
        self._report += 1
        self._news.set()
        self._news = asyncio.Event()
