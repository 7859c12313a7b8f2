"""Cache of the pods of all SpongeServices, fed by a watch and by the responses to the operator's own patches.

The response to a patch is some milliseconds ahead of the watch. The cache keeps the newer version, so a late event
never makes a resize look undone. A pod belongs to the service that its label names; a pod without the label to none.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

from sponge_operator.resources.manifests import SERVICE_LABEL

__all__ = ["PodCache", "service_key"]


class PodCache:
    """Pods by uid and by service.

    Args:
        on_change: called with "namespace/service" after each change.
    """

    def __init__(self, on_change: Callable[[str], None]) -> None:
        self._pods: dict[str, Mapping[str, Any]] = {}
        self._by_service: dict[str, dict[str, Mapping[str, Any]]] = {}
        self._on_change = on_change

    def get(self, uid: str) -> Mapping[str, Any] | None:
        return self._pods.get(uid)

    def of_service(self, key: str) -> list[Mapping[str, Any]]:
        """The pods of the service "namespace/name", by name."""
        return sorted(self._by_service.get(key, {}).values(), key=lambda pod: str(pod["metadata"]["name"]))

    def without_service(self, keys: Container[str]) -> list[Mapping[str, Any]]:
        """The pods of services other than these, unless they are on their way out."""
        return [
            pod
            for pod in self._pods.values()
            if service_key(pod) not in keys and not pod["metadata"].get("deletionTimestamp")
        ]

    def update(self, pod: Mapping[str, Any]) -> None:
        """Takes over a pod as the API server sent it, unless a newer version is known.

        A pod that has lost its label is no longer in the cache; one whose label has changed moves.
        """
        uid = pod["metadata"]["uid"]
        known = self._pods.get(uid)
        if known is not None and _version(known) > _version(pod):
            return
        before, key = None if known is None else service_key(known), service_key(pod)
        if before is not None and before != key:
            self.remove(pod)
        if key is not None:
            self._pods[uid] = self._by_service.setdefault(key, {})[uid] = pod
            self._on_change(key)

    def remove(self, pod: Mapping[str, Any]) -> None:
        """Removes a pod that is gone."""
        uid = pod["metadata"]["uid"]
        known = self._pods.pop(uid, None)
        key = None if known is None else service_key(known)
        if key is None:
            return
        of_service = self._by_service[key]
        del of_service[uid]
        if not of_service:
            del self._by_service[key]
        self._on_change(key)


def service_key(labelled: Mapping[str, Any], label: str = SERVICE_LABEL) -> str | None:
    """The "namespace/service" that an object's label names; None if it has no such label."""
    metadata = labelled["metadata"]
    name = (metadata.get("labels") or {}).get(label)
    return None if name is None else f"{metadata['namespace']}/{name}"


def _version(pod: Mapping[str, Any]) -> int:
    # Versions of one resource type are growing integers that may be compared, guaranteed since Kubernetes 1.35.
    return int(pod["metadata"]["resourceVersion"])
