"""The operator's Prometheus metrics.

The series of a pod are removed with the pod, so that dashboards sum up living pods only.
"""

from __future__ import annotations

import contextlib

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["RESIZE_OUTCOMES", "Metrics"]

RESIZE_OUTCOMES = ("actuated", "deferred", "infeasible", "rejected", "timeout", "error")
"""Results of a resize: in force; no room now; never room; refused by the API server; not in force in time; failed."""

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_SERVICE = ("namespace", "service")
_POD = (*_SERVICE, "pod")


class Metrics:
    """All series on one registry; times in seconds, CPU in cores."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.tick = Histogram(
            "sponge_operator_tick_seconds",
            "From a server's state to the end of the actions on it.",
            registry=registry,
            buckets=_FAST,
        )
        self.plan = Histogram(
            "sponge_operator_plan_seconds", "Time to decide a size.", ("policy",), registry=registry, buckets=_FAST
        )
        self.resize = Histogram(
            "sponge_operator_resize_seconds",
            "From the patch until the quota is in force.",
            registry=registry,
            buckets=(0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2, 0.4, 0.8, 1.6, 3.2),
        )
        self.resizes = Counter(
            "sponge_operator_resize",
            "Resizes by outcome; the reason is the decision's if actuated, else that of the condition ResizeBlocked.",
            (*_SERVICE, "outcome", "reason"),
            registry=registry,
        )
        self.memory_resizes = Counter(
            "sponge_operator_memory_resize",
            "Memory resizes: grow, shrink, or one that was refused or taken back.",
            ("kind",),
            registry=registry,
        )
        self.held = Counter(
            "sponge_operator_resize_held",
            "Resizes that were held back, each counted once: by --resizes-per-s (rate), a pause or a cooldown.",
            (*_SERVICE, "reason"),
            registry=registry,
        )
        self.desired = Gauge(
            "sponge_operator_desired_cores", "Cores that the pod should have.", _POD, registry=registry
        )
        self.actuated = Gauge("sponge_operator_actuated_cores", "Cores in force.", _POD, registry=registry)
        self.memory = Gauge("sponge_operator_memory_bytes", "Memory limit in force.", _POD, registry=registry)
        self.refused = Gauge(
            "sponge_operator_refused_cores",
            "Cores that a pod needs for its load and its shared node lacks.",
            _POD,
            registry=registry,
        )
        self.joint = Counter(
            "sponge_operator_joint_plans", "Joint plans of a node, by method.", ("how",), registry=registry
        )
        self.leading = Gauge(
            "sponge_operator_leading", "1 in the operator that acts, 0 in one that waits.", registry=registry
        )
        self.state_age = Gauge(
            "sponge_operator_state_age_seconds", "Age of the newest state of a server.", _POD, registry=registry
        )
        self.faults = Counter(
            "sponge_operator_faults",
            "Errors that no rule foresaw, by the step that failed; the log has their tracebacks.",
            ("step",),
            registry=registry,
        )
        self.saved = Counter(
            "sponge_operator_saved_core_seconds",
            "Core-seconds saved, compared with always running at cpu.max.",
            _SERVICE,
            registry=registry,
        )
        self.slo_target = Gauge(
            "sponge_operator_slo_target_ratio",
            "Share of a service's requests that should be in time, from slo.target.",
            _SERVICE,
            registry=registry,
        )
        self.reachable = Gauge(
            "sponge_operator_server_reachable",
            "1 while a pod's server answers the operator; 0 while it does not, or has not yet.",
            _POD,
            registry=registry,
        )
        self.blocked = Gauge(
            "sponge_operator_resize_blocked",
            "1 while a pod does not get the size that it should have, with the reason of the condition ResizeBlocked.",
            (*_POD, "reason"),
            registry=registry,
        )
        self.replicas = Gauge(
            "sponge_operator_replicas",
            "Pods of a service by state: wanted, present (not on their way out), and serving.",
            (*_SERVICE, "state"),
            registry=registry,
        )
        self.scalings = Counter(
            "sponge_operator_scalings",
            "Changes of the number of pods between replicas.min and replicas.max, by direction (out, in) and reason.",
            (*_SERVICE, "direction", "reason"),
            registry=registry,
        )
        self.cold_start = Gauge(
            "sponge_operator_cold_start_seconds",
            "From the creation of a pod until it serves, as measured; only where the number of pods follows the load.",
            _SERVICE,
            registry=registry,
        )
        self.full_nodes = Gauge(
            "sponge_operator_full_nodes",
            "Nodes on which a pod of the service cannot have the size that it should have, for lack of room.",
            _SERVICE,
            registry=registry,
        )
        self.fronts = Gauge(
            "sponge_operator_fronts",
            "Fronts of a service that has them, by state: wanted, and ready to take requests.",
            (*_SERVICE, "state"),
            registry=registry,
        )
        self.front_not_ready = Gauge(
            "sponge_operator_front_not_ready",
            "1 while the condition FrontReady of a service that has a front is False, with its reason.",
            (*_SERVICE, "reason"),
            registry=registry,
        )
        self._blocked: dict[tuple[str, str, str], str] = {}
        self._fronts_not_ready: dict[tuple[str, str], str] = {}

    def set_blocked(self, namespace: str, service: str, pod: str, reason: str | None) -> None:
        """Shows what blocks the resizes of a pod; None: nothing does."""
        key = (namespace, service, pod)
        before = self._blocked.pop(key, None)
        if before is not None and before != reason:
            self.blocked.remove(*key, before)
        if reason is not None:
            self._blocked[key] = reason
            self.blocked.labels(*key, reason).set(1)

    def set_front(self, namespace: str, service: str, wanted: int, ready: int, reason: str | None) -> None:
        """Shows the fronts of a service; `reason`: why FrontReady is False; None if it is True."""
        for state, count in (("wanted", wanted), ("ready", ready)):
            self.fronts.labels(namespace, service, state).set(count)
        before = self._fronts_not_ready.pop((namespace, service), None)
        if before is not None and before != reason:
            self.front_not_ready.remove(namespace, service, before)
        if reason is not None:
            self._fronts_not_ready[namespace, service] = reason
            self.front_not_ready.labels(namespace, service, reason).set(1)

    def forget_front(self, namespace: str, service: str) -> None:
        """Removes the series of a front that is not wanted."""
        self._fronts_not_ready.pop((namespace, service), None)
        for metric in (self.fronts, self.front_not_ready):
            metric.remove_by_labels({"namespace": namespace, "service": service})

    def forget_service(self, namespace: str, service: str) -> None:
        """Removes the series of a service that is gone."""
        self.forget_front(namespace, service)
        own = (self.slo_target, self.resizes, self.held, self.saved, self.replicas, self.scalings)
        for metric in (*own, self.cold_start, self.full_nodes):
            metric.remove_by_labels({"namespace": namespace, "service": service})

    def forget_pod(self, namespace: str, service: str, pod: str) -> None:
        """Removes the series of a pod that is gone."""
        self.set_blocked(namespace, service, pod, None)
        for gauge in (self.desired, self.actuated, self.memory, self.refused, self.state_age, self.reachable):
            with contextlib.suppress(KeyError):
                gauge.remove(namespace, service, pod)
