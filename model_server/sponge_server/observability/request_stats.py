"""What is written down about requests and batches: outcomes, latencies, and their metrics.

One method for each thing that happens; decides nothing. Metrics are looked up once for each model, because a lookup by
labels costs more than the observation.
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from sponge_core.control_api import OUTCOMES, Outcome
from sponge_server.deadlines import DEFAULT_CLASS
from sponge_server.engine.scheduler import Batch, Turn
from sponge_server.observability.latency_window import RecentLatencies
from sponge_server.observability.metrics import Metrics
from sponge_server.workers.interface import LaneResult

__all__ = ["Books", "ModelBooks"]

SHED_LABELS = {"hopeless": "shed", "expired": "expire", "sacrificed": "sacrifice"}
"""The label of `sponge_dispatch_total` for each reason to give up a request."""


class Books:
    """The account of one server, all models together. `outcomes` counts since the start."""

    def __init__(self, metrics: Metrics) -> None:
        self.outcomes: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self.latencies = RecentLatencies()
        self._metrics = metrics
        self._dispatch = {what: metrics.dispatch.labels(what) for what in ("launch", "wait", *SHED_LABELS.values())}

    def of(self, model_name: str) -> ModelBooks:
        """The account of one model; what is written there counts here too."""
        return ModelBooks(self, self._metrics, model_name)

    def turned(self, turn: Turn, waits: bool) -> None:
        """A decision was made; `waits` tells whether requests are left in the queue after it."""
        if turn.batches:
            self._dispatch["launch"].inc(len(turn.batches))
        for shed in turn.sheds:
            self._dispatch[SHED_LABELS[shed.reason]].inc()
        if waits:
            self._dispatch["wait"].inc()


class ModelBooks:
    """The account of one model; made by `Books.of`."""

    def __init__(self, whole: Books, metrics: Metrics, model_name: str) -> None:
        self._whole = whole
        self._metrics = metrics
        self.model_name = model_name
        self._queue = metrics.queue.labels(model_name)
        self._slack = metrics.slack.labels(model_name)
        self._batch_size = metrics.batch_size.labels(model_name)
        self._batch_threads = metrics.batch_threads.labels(model_name)
        self._batch = metrics.batch.labels(model_name)
        self._ratio = metrics.prediction_ratio.labels(model_name)
        self._lane_crashes = metrics.lane_crashes.labels(model_name)
        # A counter that appears with its first event has no rate then: alerts would miss the first misses.
        self._requests: dict[tuple[str, Outcome], Counter] = {
            (DEFAULT_CLASS, outcome): metrics.requests.labels(model_name, DEFAULT_CLASS, outcome)
            for outcome in OUTCOMES
        }
        self._latency: dict[str, Histogram] = {}

    def dispatched(self, batch: Batch) -> None:
        for request in batch.requests:
            self._queue.observe(batch.started - request.arrival)
            self._slack.observe(request.deadline - batch.started)

    def computed(self, batch: Batch, result: LaneResult, ratio: float) -> None:
        """A batch ended well; `ratio` is its measured over predicted work."""
        self._batch_size.observe(len(batch.requests))
        self._batch_threads.observe(batch.threads)
        self._batch.observe(result.batch_s)
        self._ratio.observe(ratio)

    def lane_lost(self) -> None:
        """A lane died or hung with a batch of this model."""
        self._lane_crashes.inc()

    def answered(self, now: float, slo_class: str, latency_s: float) -> None:
        """A request got its outputs, `latency_s` after its client sent it."""
        self._whole.latencies.add(now, latency_s)
        histogram = self._latency.get(slo_class)
        if histogram is None:
            histogram = self._latency[slo_class] = self._metrics.latency.labels(self.model_name, slo_class)
        histogram.observe(latency_s)

    def ended(self, slo_class: str, outcome: Outcome) -> None:
        """A request is over; called once for each."""
        self._whole.outcomes[outcome] += 1
        counter = self._requests.get((slo_class, outcome))
        if counter is None:
            counter = self._metrics.requests.labels(self.model_name, slo_class, outcome)
            self._requests[slo_class, outcome] = counter
        counter.inc()
