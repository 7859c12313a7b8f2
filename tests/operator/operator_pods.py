"""Pods as the API server sends them."""

from __future__ import annotations

import copy
from typing import Any

from sponge_core.quantities import cpu_quantity

__all__ = ["container_of", "pod_of"]


def container_of(milli: int) -> dict[str, Any]:
    """A container of another pod."""
    return {"name": "main", "resources": {"requests": {"cpu": cpu_quantity(milli)}}}


def pod_of(milli: int, name: str) -> dict[str, Any]:
    """The one pod of the service `name`, running and ready at this size; it started with one core."""
    resources = {
        "limits": {"cpu": cpu_quantity(milli), "memory": "1Gi"},
        "requests": {"cpu": cpu_quantity(milli), "memory": "1Gi"},
    }
    return {
        "metadata": {
            "name": f"{name}-1",
            "namespace": "team-a",
            "uid": f"p-{name}",
            "generation": 1,
            "resourceVersion": "1",
            "labels": {"serving.sponge.dev/service": name},
            "annotations": {"serving.sponge.dev/startup-cpu": "1"},
        },
        "spec": {"containers": [{"name": "server", "resources": resources}]},
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "observedGeneration": 1,
            "conditions": [],
            "containerStatuses": [
                {
                    "name": "server",
                    "ready": True,
                    "restartCount": 0,
                    "state": {"running": {}},
                    "resources": copy.deepcopy(resources),
                }
            ],
        },
    }
