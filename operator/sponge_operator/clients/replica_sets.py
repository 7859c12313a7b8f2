"""Which Deployment each ReplicaSet of a service belongs to, fed by a watch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sponge_operator.resources.ownership import controller_of

__all__ = ["ReplicaSets"]


class ReplicaSets:
    """ReplicaSets by uid."""

    def __init__(self) -> None:
        self._controllers: dict[str, str] = {}

    def seen(self, replica_set: Mapping[str, Any], *, gone: bool) -> None:
        """Takes over a ReplicaSet as the API server sent it."""
        uid, controller = replica_set["metadata"]["uid"], controller_of(replica_set)
        if gone or controller is None:
            self._controllers.pop(uid, None)
        else:
            self._controllers[uid] = controller["uid"]

    def deployment_of(self, pod: Mapping[str, Any]) -> str | None:
        """The uid of the Deployment that a pod belongs to; None if it belongs to none that is known."""
        controller = controller_of(pod)
        return None if controller is None else self._controllers.get(controller["uid"])
