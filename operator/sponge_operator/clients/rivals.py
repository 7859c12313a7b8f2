"""Other autoscalers of the Deployments in the cluster, fed by watches.

A HorizontalPodAutoscaler sets the number of pods, whatever it measures, and `spec.replicas` sets it too. A
VerticalPodAutoscaler sets the size of pods, unless it only recommends or leaves the server's container alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sponge_operator.resources.manifests import CONTAINER

__all__ = ["Rivals"]

_TARGET_FIELD = {"HorizontalPodAutoscaler": "scaleTargetRef", "VerticalPodAutoscaler": "targetRef"}


class Rivals:
    """Autoscalers by the "namespace/name" of the Deployment that they change.

    Args:
        on_change: called with that key when an autoscaler of it has come, gone or changed.
    """

    def __init__(self, on_change: Callable[[str], None]) -> None:
        self._target_of: dict[str, str] = {}  # by uid
        self._of_target: dict[str, dict[str, str]] = {}  # target, uid, "Kind 'name'"
        self._on_change = on_change

    def of(self, key: str) -> str | None:
        """Message about another autoscaler of the Deployment; None if there is none."""
        found = self._of_target.get(key)
        if not found:
            return None
        name = key.partition("/")[2]
        return f"{min(found.values())} scales the Deployment {name!r} too; delete it or point it elsewhere"

    def seen(self, kind: str, scaler: Mapping[str, Any], *, gone: bool = False) -> None:
        """Takes over an autoscaler as the API server sent it."""
        metadata = scaler["metadata"]
        uid, before = metadata["uid"], self._target_of.pop(metadata["uid"], None)
        target = None if gone else _target(kind, scaler)
        if before is not None:
            del self._of_target[before][uid]
            if not self._of_target[before]:
                del self._of_target[before]
        if target is not None:
            self._target_of[uid] = target
            self._of_target.setdefault(target, {})[uid] = f"{kind} {metadata['name']!r}"
        for key in {before, target} - {None} if before != target else ():
            self._on_change(str(key))


def _target(kind: str, scaler: Mapping[str, Any]) -> str | None:
    """The Deployment that an autoscaler changes; None if it changes none."""
    spec = scaler.get("spec") or {}
    target = spec.get(_TARGET_FIELD[kind]) or {}
    if target.get("kind") != "Deployment" or not str(target.get("apiVersion", "apps/v1")).startswith("apps/"):
        return None
    if kind == "VerticalPodAutoscaler" and not _changes_pods(spec):
        return None
    return f"{scaler['metadata']['namespace']}/{target.get('name')}"


def _changes_pods(spec: Mapping[str, Any]) -> bool:
    if (spec.get("updatePolicy") or {}).get("updateMode") == "Off":
        return False
    modes = {
        policy.get("containerName"): policy.get("mode")
        for policy in (spec.get("resourcePolicy") or {}).get("containerPolicies") or ()
    }
    return (modes[CONTAINER] if CONTAINER in modes else modes.get("*")) != "Off"
