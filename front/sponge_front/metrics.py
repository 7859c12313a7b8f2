"""The front's Prometheus metrics. What the proxy counts, Envoy tells itself."""

from __future__ import annotations

from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from sponge_core.routing.pod_table import Ending

__all__ = ["FrontMetrics", "Why"]

Why = Literal["no_pod", "not_inference"]


class FrontMetrics:
    """All series on one registry; times in seconds."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "sponge_front_requests",
            "Requests that the picker sent to a pod, by how they ended there.",
            ("ending",),
            registry=registry,
        )
        for ending in get_args(Ending):
            self.requests.labels(ending)
        self.unpicked = Counter(
            "sponge_front_unpicked_requests",
            "Requests that the picker left to the proxy: not for inference, or for lack of a pod.",
            ("why",),
            registry=registry,
        )
        for why in get_args(Why):
            self.unpicked.labels(why)
        self.pick = Histogram(
            "sponge_front_pick_seconds",
            "Time to choose a pod.",
            registry=registry,
            buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02),
        )
        self.pods = Gauge("sponge_front_pods", "Pods that the front knows.", registry=registry)
        self.reporting = Gauge(
            "sponge_front_pods_reporting", "Pods whose load the front has heard lately.", registry=registry
        )
        self.avoided = Gauge(
            "sponge_front_pods_avoided",
            "Pods that get no requests for a while: they fail, are silent, or do not do what they report.",
            registry=registry,
        )
        self.report_age = Gauge(
            "sponge_front_report_age_seconds",
            "Age of the last report of the pod whose is the oldest.",
            registry=registry,
        )
