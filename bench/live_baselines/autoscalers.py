"""The objects and flags of the Horizontal and the Vertical Pod Autoscaler. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.live_baselines.schedules import Target
from bench.live_baselines.servers import NAME, NAMESPACE
from sponge_core.quantities import cpu_quantity
from sponge_operator.resources.manifests import CONTAINER
from sponge_simulator.scaling.hpa import TARGET as HPA_TARGET

__all__ = [
    "DEFAULT_CONFIDENCE_S",
    "TUNED_HALF_LIFE_S",
    "TUNED_INTERVAL_S",
    "TUNED_MIN_CHANGE",
    "VPA_DEFAULT",
    "VPA_TUNED",
    "VpaSettings",
    "horizontal",
    "vertical",
]

SCALED = {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME}


@dataclass(frozen=True, slots=True)
class VpaSettings:
    """The flags that the recommender and the updater get beside those of where they run."""

    recommender: tuple[str, ...] = ()
    updater: tuple[str, ...] = ()


ONE_REPLICA = ("--min-replicas=1", "--use-admission-controller-status=false")
"""The updater acts on a single pod, and without an admission controller."""

VPA_DEFAULT = VpaSettings(updater=ONE_REPLICA)
"""Half-life of 24 h, both loops once a minute."""

DEFAULT_CONFIDENCE_S = 86_400.0
TUNED_HALF_LIFE_S, TUNED_INTERVAL_S, TUNED_MIN_CHANGE = 60.0, 10.0, 0.05

VPA_TUNED = VpaSettings(
    recommender=(
        f"--cpu-histogram-decay-half-life={TUNED_HALF_LIFE_S:g}s",
        f"--recommender-interval={TUNED_INTERVAL_S:g}s",
        # By default the bounds are wide until days of samples are there, and a pod within them is left alone.
        f"--confidence-interval-cpu={TUNED_INTERVAL_S:g}s",
    ),
    updater=(
        *ONE_REPLICA,
        f"--updater-interval={TUNED_INTERVAL_S:g}s",
        "--in-recommendation-bounds-eviction-lifetime-threshold=0s",
        # A saturated pod of 500m is recommended 548m, which is less than the default of 10 % away.
        f"--pod-update-threshold={TUNED_MIN_CHANGE:g}",
    ),
)
"""As fast as metrics that come every 15 s let it be."""


def horizontal(target: Target) -> dict[str, Any]:
    """The HorizontalPodAutoscaler: CPU use of 70 %, everything else by default."""
    use = {"type": "Utilization", "averageUtilization": round(100 * HPA_TARGET)}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "scaleTargetRef": SCALED,
            "minReplicas": 1,
            "maxReplicas": target.most_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": use}}],
        },
    }


def vertical(target: Target) -> dict[str, Any]:
    """The VerticalPodAutoscaler: CPU only, in place where it can, limits with the requests."""
    policy = {
        "containerName": CONTAINER,
        "controlledResources": ["cpu"],
        "controlledValues": "RequestsAndLimits",
        "minAllowed": {"cpu": cpu_quantity(target.least_milli)},
        "maxAllowed": {"cpu": cpu_quantity(target.most_milli)},
    }
    return {
        "apiVersion": "autoscaling.k8s.io/v1",
        "kind": "VerticalPodAutoscaler",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "targetRef": SCALED,
            "updatePolicy": {"updateMode": "InPlaceOrRecreate", "minReplicas": 1},
            "resourcePolicy": {"containerPolicies": [policy]},
        },
    }
