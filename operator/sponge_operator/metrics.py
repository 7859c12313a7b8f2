"""The operator's Prometheus metrics. Holds numbers; decides nothing.

Series of a pod are removed with the pod, so that a dashboard does not add up the dead.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["OUTCOMES", "Metrics"]

OUTCOMES = ("actuated", "deferred", "infeasible", "rejected", "timeout", "error")
"""What became of a resize: in force; no room now; never room; refused by the API server; not in time; failed."""

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_POD = ("namespace", "service", "pod")


class Metrics:
    """All series on one registry; times in seconds, CPU in cores."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.tick = Histogram(
            "sponge_operator_tick_seconds",
            "From a server's state to the end of what it caused.",
            registry=registry,
            buckets=_FAST,
        )
        self.plan = Histogram(
            "sponge_operator_plan_seconds", "Deciding a size.", ("policy",), registry=registry, buckets=_FAST
        )
        self.resize = Histogram(
            "sponge_operator_resize_seconds",
            "From the patch to the quota in force.",
            registry=registry,
            buckets=(0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2, 0.4, 0.8, 1.6, 3.2),
        )
        self.resizes = Counter(
            "sponge_operator_resize", "Resizes by what became of them.", ("outcome",), registry=registry
        )
        for outcome in OUTCOMES:
            self.resizes.labels(outcome)
        self.desired = Gauge("sponge_operator_desired_cores", "Cores that the plan wants.", _POD, registry=registry)
        self.actuated = Gauge("sponge_operator_actuated_cores", "Cores in force.", _POD, registry=registry)
        self.refused = Gauge(
            "sponge_operator_refused_cores",
            "Cores that a pod's load wants and its shared node lacks.",
            _POD,
            registry=registry,
        )
        self.joint = Counter(
            "sponge_operator_joint_plans", "Joint plans of a node, by how they came about.", ("how",), registry=registry
        )
        self.state_age = Gauge(
            "sponge_operator_state_age_seconds", "Age of the newest state of a server.", _POD, registry=registry
        )
        self.saved = Counter(
            "sponge_operator_saved_core_seconds",
            "Core-seconds given back, against running always at cpu.max.",
            ("namespace", "service"),
            registry=registry,
        )

    def forget_pod(self, namespace: str, service: str, pod: str) -> None:
        """The pod is gone."""
        for gauge in (self.desired, self.actuated, self.refused, self.state_age):
            try:
                gauge.remove(namespace, service, pod)
            except KeyError:
                continue
