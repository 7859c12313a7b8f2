"""Cache of the pods of all SpongeServices, fed by a watch and by the responses to the operator's own patches.

The response to a patch is some milliseconds ahead of the watch. The cache keeps the newer version, so a late event
never makes a resize look undone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sponge_operator.resources.manifests import SERVICE_LABEL

__all__ = ["PodCache"]


class PodCache:
    """Pods by uid.

    Args:
        on_change: called with "namespace/service" after each change.
    """

    def __init__(self, on_change: Callable[[str], None]) -> None:
        self._pods: dict[str, Mapping[str, Any]] = {}
        self._on_change = on_change

    def get(self, uid: str) -> Mapping[str, Any] | None:
        return self._pods.get(uid)

    def of_service(self, key: str) -> list[Mapping[str, Any]]:
        """The pods of the service "namespace/name", by name."""
        pods = [pod for pod in self._pods.values() if _service_key(pod) == key]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))

    def update(self, pod: Mapping[str, Any]) -> None:
        """Takes over a pod as the API server sent it, unless a newer version is known."""
        uid = pod["metadata"]["uid"]
        known = self._pods.get(uid)
        if known is not None and _version(known) > _version(pod):
            return
        self._pods[uid] = pod
        self._on_change(_service_key(pod))

    def remove(self, pod: Mapping[str, Any]) -> None:
        """Removes a pod that is gone."""
        if self._pods.pop(pod["metadata"]["uid"], None) is not None:
            self._on_change(_service_key(pod))


def _version(pod: Mapping[str, Any]) -> int:
    # Versions of one resource type are growing integers that may be compared, guaranteed since Kubernetes 1.35.
    return int(pod["metadata"]["resourceVersion"])


def _service_key(pod: Mapping[str, Any]) -> str:
    metadata = pod["metadata"]
    return f"{metadata['namespace']}/{metadata['labels'][SERVICE_LABEL]}"
