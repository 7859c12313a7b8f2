"""Requests and batches as OpenTelemetry spans. Imported only when tracing is on.

Each request is a span, a child of the client's span if the client sends `traceparent`, with a link to the span of its
batch. Each batch is a span. The standard variables set the target: OTEL_EXPORTER_OTLP_ENDPOINT, _HEADERS,
OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER and others.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sponge_core.control_api import Outcome
from sponge_core.deadlines import Due
from sponge_server.engine.jobs import Batch, Job
from sponge_server.model_handle import ModelHandle
from sponge_server.observability.observers import RequestObserver

__all__ = ["Tracing"]

DEFAULT_NAME = "sponge-server"

MOST_BATCHES = 4096
"""Batches remembered for the links of requests that have not ended."""

FAILURES = ("late", "shed", "expired", "error")


class Tracing(RequestObserver):
    """Sends the spans. Call `close` at the end."""

    def __init__(self) -> None:
        resource = Resource.create()
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": DEFAULT_NAME}))
        # It exports on a thread of its own, and drops spans rather than wait.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("sponge_server")
        self._propagator = TraceContextTextMapPropagator()
        self._epoch_s = time.time() - time.monotonic()
        self._running: dict[int, Span] = {}
        self._batches: OrderedDict[int, SpanContext] = OrderedDict()

    def close(self) -> None:
        """Sends the remaining spans, for a few seconds at most."""
        self._provider.shutdown()

    def batch_started(self, batch: Batch) -> None:
        span = self._tracer.start_span(
            "batch",
            start_time=self._ns(batch.started),
            attributes={
                "sponge.batch.size": len(batch.requests),
                "sponge.batch.threads": batch.threads,
                "sponge.batch.predicted_ms": batch.predicted_s * 1000,
            },
        )
        self._running[batch.key] = span
        self._batches[batch.key] = span.get_span_context()
        if len(self._batches) > MOST_BATCHES:
            self._batches.popitem(last=False)

    def batch_finished(self, batch: Batch, now: float) -> None:
        span = self._running.pop(batch.key, None)
        if span is not None:
            span.end(self._ns(now))

    def request_ended(self, job: Job, outcome: Outcome, now: float) -> None:
        attributes: dict[str, str | int | float] = {
            "sponge.rows": len(job.ids),
            "sponge.network_ms": (job.arrival - job.due.sent) * 1000,
            "sponge.queue_ms": job.queue_s * 1000,
            "sponge.batch_ms": job.batch_s * 1000,
            "sponge.infer_ms": job.infer_s * 1000,
            "sponge.remaining_slo_ms": (job.due.deadline - job.arrival) * 1000,
        }
        links = []
        if job.batch is not None:
            attributes["sponge.batch.size"] = len(job.batch.requests)
            attributes["sponge.batch.threads"] = job.batch.threads
            context = self._batches.get(job.batch.key)
            if context is not None:
                links.append(Link(context))
        self._request(job.model, job.due, outcome, now, attributes, links)

    def request_refused(self, model: ModelHandle, due: Due, outcome: Outcome, now: float) -> None:
        self._request(model, due, outcome, now, {"sponge.remaining_slo_ms": (due.deadline - now) * 1000}, [])

    def _request(
        self,
        model: ModelHandle,
        due: Due,
        outcome: Outcome,
        now: float,
        attributes: dict[str, str | int | float],
        links: list[Link],
    ) -> None:
        parent = self._propagator.extract({"traceparent": due.traceparent.decode("latin-1")})
        span = self._tracer.start_span(
            f"infer {model.info.name}",
            context=parent,
            kind=SpanKind.SERVER,
            links=links,
            start_time=self._ns(due.sent),
            attributes={
                "sponge.model": model.info.name,
                "sponge.slo_class": due.slo_class,
                "sponge.slo_ms": due.limit_s * 1000,
                "sponge.outcome": outcome,
                **attributes,
            },
        )
        if outcome in FAILURES:
            span.set_status(Status(StatusCode.ERROR, outcome))
        span.end(self._ns(now))

    def _ns(self, at: float) -> int:
        return round((self._epoch_s + at) * 1e9)
