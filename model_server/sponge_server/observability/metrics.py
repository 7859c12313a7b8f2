"""Every Prometheus metric of the server, on its own registry. Base units: seconds, cores, bytes.

Dashboards and alerts depend on the names and labels.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from sponge_system.process_memory import MemoryModel

__all__ = ["Metrics"]

# A timestamp per counter would double the size of the exposition, and nothing reads it.
disable_created_metrics()  # type: ignore[no-untyped-call]

SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.035,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    0.75,
    1.0,
    1.5,
    2.5,
    5.0,
    10.0,
)
SLACK = (-1.0, -0.1, 0.0, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0)
RATIO = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0)
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
LAG = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Metrics:
    """The metrics of one server, one attribute per metric."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._throttled_s = 0.0

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, registry=registry, buckets=buckets)

        self.requests = counter("sponge_requests_total", "Requests by outcome.", "model", "slo_class", "outcome")
        self.latency = histogram(
            "sponge_request_latency_seconds",
            "From the client's send time to the answer.",
            SECONDS,
            "model",
            "slo_class",
        )
        self.queue = histogram("sponge_queue_seconds", "From arrival to dispatch.", SECONDS, "model")
        self.slack = histogram("sponge_slack_at_dispatch_seconds", "Deadline minus time of dispatch.", SLACK, "model")
        self.batch_size = histogram("sponge_batch_size", "Rows of a batch.", SIZES, "model")
        self.batch_threads = histogram("sponge_batch_threads", "Threads of a batch.", SIZES, "model")
        self.batch = histogram("sponge_batch_seconds", "Time of a batch in its lane.", SECONDS, "model")
        self.prediction_ratio = histogram(
            "sponge_latency_prediction_ratio", "Measured over predicted work of a batch.", RATIO, "model"
        )
        self.profile_drifted = gauge(
            "sponge_profile_drifted", "1 while batches take much more or less time than the profile says."
        )
        self.dispatch = counter(
            "sponge_dispatch_total",
            "Dispatch decisions: launch, shed, expire, sacrifice, or wait with requests in the queue.",
            "reason",
        )
        self.answers = counter(
            "sponge_answers_total",
            "Answered requests by the variant that answered; only for a model with variants.",
            "model",
            "variant",
        )
        self.queue_length = gauge("sponge_queue_length", "Rows in the queue.", "model")
        self.quota = gauge(
            "sponge_cpu_quota_cores", "CPU quota of the server's cgroup; the applied cores if it has none."
        )
        self.thread_budget = gauge("sponge_thread_budget", "Threads that may run at once.")
        self.threads_running = gauge("sponge_threads_running", "Threads of all running batches.")
        self.lanes = gauge("sponge_lanes", "Lanes, healthy or not; 0 while the server starts.")
        self.lanes_healthy = gauge("sponge_lanes_healthy", "Lanes that can run a batch; the others are being replaced.")
        self.lanes_running = gauge("sponge_lanes_running", "Lanes that run a batch.")
        self.batch_cap = gauge("sponge_batch_cap", "Largest batch in force.")
        self.core_compiled = gauge("sponge_core_compiled", "1 if decisions run compiled, 0 if interpreted.")
        self.throttled = counter("sponge_cpu_throttled_seconds_total", "Time that the kernel throttled the cgroup.")
        self.reconfigure = histogram(
            "sponge_reconfigure_seconds", "From an apply message until the threads in use fit it.", SECONDS
        )
        self.without_operator = gauge(
            "sponge_without_operator_seconds",
            "How long the operator has been silent, once that is longer than planner.fallbackAfter; else 0.",
        )
        self.loop_lag = histogram("sponge_event_loop_lag_seconds", "How late the event loop runs its timers.", LAG)
        self.memory = Gauge(
            "sponge_memory_bytes",
            "Measured at startup: memory of server and model (base), of a lane, of a row of its largest batch (item).",
            ("part",),
            registry=registry,
        )
        self.memory_limit = gauge(
            "sponge_memory_limit_bytes", "Memory limit of the server's cgroup; 0 without a limit."
        )
        self.uploads = gauge("sponge_uploads_in_flight", "Requests whose body is still being uploaded.")
        self.displaced = counter(
            "sponge_queue_displaced_total", "Requests that lost their place in a full queue to another.", "model"
        )
        self.sent_at_corrected = counter(
            "sponge_sent_at_corrected_total", "Send times by a clock that is behind, set right before use."
        )
        self.sent_at_ignored = counter("sponge_sent_at_ignored_total", "Implausible send times, ignored.", "reason")
        self.problems = counter(
            "sponge_problems_total", "Error responses to inference requests, by HTTP status.", "status"
        )
        self.internal_errors = counter(
            "sponge_internal_errors_total",
            "Requests that ended in an error of the server itself; each is logged.",
            "port",
        )
        self.certificate_expiry = gauge(
            "sponge_certificate_expiry_seconds", "End of the certificate's validity in epoch seconds; 0 without TLS."
        )
        self.handshake_failures = counter(
            "sponge_tls_handshake_failures_total",
            "Connections to an HTTP port that ended before TLS was agreed: plain, timeout, failed or displaced.",
            "reason",
        )
        # These are shown as 0 before the first one, so that a rate sees the first.
        for family, reasons in (
            (self.sent_at_ignored, ("future", "stale")),
            (self.handshake_failures, ("plain", "timeout", "failed", "displaced")),
            (self.internal_errors, ("http", "grpc", "control")),
        ):
            for reason in reasons:
                family.labels(reason)
        self.reload_failures = counter(
            "sponge_reload_failures_total",
            "Changed files of certificates or API keys that could not be used; the former ones stay in force.",
            "setting",
        )
        self.lane_crashes = counter("sponge_lane_crashes_total", "Batches lost to a lane that died or hung.", "model")
        self.model_version = gauge(
            "sponge_model_version", "1 for the version of a model that serves.", "model", "version"
        )
        self.loads = counter(
            "sponge_model_loads_total",
            "Versions loaded beside the one that serves: live, failed (it could not be loaded) or no-room (memory).",
            "model",
            "outcome",
        )
        self.connections = gauge("sponge_http_connections", "Open connections of a port.", "port")
        self.held_bytes = gauge(
            "sponge_request_bytes", "Memory of the account of requests: bodies, messages and answers."
        )
        self.held_bytes_limit = gauge(
            "sponge_request_bytes_limit", "Size of that account; beyond it, requests are shed."
        )
        ProcessCollector(registry=registry)
        self.projection = histogram("sponge_projection_seconds", "Time spent on one projection of the frontier.", LAG)

    def set_memory(self, model: MemoryModel | None, limit_bytes: int | None) -> None:
        """Sets the memory measured at startup; None where the kernel does not report it."""
        if limit_bytes is not None:
            self.memory_limit.set(limit_bytes)
        if model is not None:
            for part, size in (("base", model.base_bytes), ("lane", model.lane_bytes), ("item", model.item_bytes)):
                self.memory.labels(part).set(size)

    def set_throttled(self, total_s: float) -> None:
        """Raises the throttled seconds to `total_s`, which never falls."""
        self.throttled.inc(max(0.0, total_s - self._throttled_s))
        self._throttled_s = max(self._throttled_s, total_s)

    def render(self) -> tuple[bytes, str]:
        """Returns the exposition and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
