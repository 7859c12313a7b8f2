"""Statistics of requests and batches: outcomes, recent latencies, and their Prometheus metrics.

Label children are looked up once per model, because a lookup by labels costs more than the observation.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from prometheus_client import Counter, Histogram

from sponge_core.control_api import OUTCOMES, Outcome
from sponge_core.deadlines import DEFAULT_CLASS, Due
from sponge_server.engine.jobs import Batch, Job, Turn
from sponge_server.model_handle import ModelHandle
from sponge_server.observability.metrics import Metrics
from sponge_server.observability.observers import RequestObserver
from sponge_server.workers.interface import LaneResult

__all__ = ["LatencyWindow", "RequestStats"]

SHED_LABELS = {"hopeless": "shed", "expired": "expire", "sacrificed": "sacrifice"}
"""Label of `sponge_dispatch_total` for each reason to drop a request."""


class LatencyWindow:
    """Latencies of the last `window_s` seconds, at most `most` of them."""

    def __init__(self, window_s: float = 10.0, most: int = 20_000) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, float]] = deque(maxlen=most)

    def add(self, now: float, latency_s: float) -> None:
        """Adds one latency; calls come in order of `now`."""
        self._seen.append((now, latency_s))

    def quantile(self, now: float, q: float) -> float | None:
        """The q-quantile in seconds (0 <= q <= 1, nearest rank), or None when the window is empty."""
        while self._seen and self._seen[0][0] < now - self._window_s:
            self._seen.popleft()
        if not self._seen:
            return None
        ordered = sorted(latency for _, latency in self._seen)
        return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


class RequestStats(RequestObserver):
    """Counts what the engine reports.

    Attributes:
        outcomes: number of requests by outcome since the start, all models together.
        latencies: latencies of answered requests, from the client's send time.
    """

    def __init__(self, metrics: Metrics, models: Sequence[str], variants: Sequence[str] = ()) -> None:
        """Names, by the index of the model or by the number of the variant of the one model, as MODEL/VARIANT."""
        self.outcomes: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self.latencies = LatencyWindow()
        self._models = [_ModelStats(metrics, name) for name in models]
        self._variants = [_BatchStats(metrics, name) for name in variants]
        self._dispatch = {what: metrics.dispatch.labels(what) for what in ("launch", "wait", *SHED_LABELS.values())}

    def turn_taken(self, turn: Turn, waits: bool) -> None:
        if turn.batches:
            self._dispatch["launch"].inc(len(turn.batches))
        for shed in turn.sheds:
            self._dispatch[SHED_LABELS[shed.reason]].inc()
        if waits:
            self._dispatch["wait"].inc()

    def batch_started(self, batch: Batch) -> None:
        stats = self._models[batch.model]
        for request in batch.requests:
            stats.queue.observe(batch.started - request.arrival)
            stats.slack.observe(request.deadline - batch.started)

    def batch_measured(self, batch: Batch, result: LaneResult, ratio: float, now: float) -> None:  # noqa: ARG002
        stats = self._models[batch.model] if batch.variant == 0 else self._variants[batch.variant - 1]
        stats.batch_size.observe(len(batch.requests))
        stats.batch_threads.observe(batch.threads)
        stats.batch.observe(result.batch_s)
        stats.ratio.observe(ratio)

    def lane_lost(self, batch: Batch) -> None:
        self._models[batch.model].lane_crashes.inc()

    def request_ended(self, job: Job, outcome: Outcome, now: float) -> None:
        stats, slo_class = self._models[job.model.index], job.due.slo_class
        self.outcomes[outcome] += 1
        stats.requests(slo_class, outcome).inc()
        if job.missing == 0:
            stats.answered(job)
            latency_s = now - job.due.sent
            self.latencies.add(now, latency_s)
            stats.latency(slo_class).observe(latency_s)

    def request_displaced(self, job: Job) -> None:
        self._models[job.model.index].displaced.inc()

    def request_refused(self, model: ModelHandle, due: Due, outcome: Outcome, now: float) -> None:  # noqa: ARG002
        self.outcomes[outcome] += 1
        self._models[model.index].requests(due.slo_class, outcome).inc()


class _BatchStats:
    """The metrics of what runs batches: a model or a variant."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.batch_size = metrics.batch_size.labels(name)
        self.batch_threads = metrics.batch_threads.labels(name)
        self.batch = metrics.batch.labels(name)
        self.ratio = metrics.prediction_ratio.labels(name)


class _ModelStats(_BatchStats):
    """The metrics of one model."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        super().__init__(metrics, model)
        self.queue = metrics.queue.labels(model)
        self.slack = metrics.slack.labels(model)
        self.lane_crashes = metrics.lane_crashes.labels(model)
        self.displaced = metrics.displaced.labels(model)
        self._model = model
        self._metrics = metrics
        # A counter that appears with its first event has no rate at that moment: alerts would miss the first misses.
        self._requests: dict[tuple[str, Outcome], Counter] = {
            (DEFAULT_CLASS, outcome): metrics.requests.labels(model, DEFAULT_CLASS, outcome) for outcome in OUTCOMES
        }
        self._latency: dict[str, Histogram] = {}

    def requests(self, slo_class: str, outcome: Outcome) -> Counter:
        counter = self._requests.get((slo_class, outcome))
        if counter is None:
            counter = self._metrics.requests.labels(self._model, slo_class, outcome)
            self._requests[slo_class, outcome] = counter
        return counter

    def answered(self, job: Job) -> None:
        """Counts an answer by its variant, if there are any."""
        by = job.model.answered_by(job.variant)
        if by is not None:
            self._metrics.answers.labels(self._model, by[0]).inc()

    def latency(self, slo_class: str) -> Histogram:
        histogram = self._latency.get(slo_class)
        if histogram is None:
            histogram = self._latency[slo_class] = self._metrics.latency.labels(self._model, slo_class)
        return histogram
