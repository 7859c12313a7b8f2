"""An API server in memory, for what is kept in it: objects by kind and name, each change a new version."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from sponge_operator.clients.kube import ApiError

__all__ = ["Cluster"]


class Cluster:
    """Stands for `Kube`.

    Attributes:
        calls: ("get" or "apply", kind), in order, and ("status", status).
        refusals: what `apply` answers for a kind instead of taking it.
        silent: kinds that cannot be read.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.refusals: dict[str, ApiError] = {}
        self.silent: set[str] = set()
        self._version = 100

    def put(self, kind: str, name: str, **metadata: Any) -> dict[str, Any]:
        """An object that somebody else makes."""
        self._version += 1
        identity = {"name": name, "namespace": "team-a", "uid": f"u{self._version}", "generation": 1}
        made = {"kind": kind, "metadata": {**identity, "resourceVersion": str(self._version), **metadata}}
        self.objects[kind, name] = made
        return made

    def touch(self, kind: str, name: str) -> dict[str, Any]:
        """Somebody else changes the object."""
        self._version += 1
        metadata = self.objects[kind, name]["metadata"]
        metadata["resourceVersion"] = str(self._version)
        metadata["generation"] += 1
        return copy.deepcopy(self.objects[kind, name])

    def report(self, kind: str, name: str, status: dict[str, Any]) -> dict[str, Any]:
        """A controller of Kubernetes writes the status."""
        self._version += 1
        found = self.objects[kind, name]
        found["status"] = status
        found["metadata"]["resourceVersion"] = str(self._version)
        return copy.deepcopy(found)

    def count(self, call: str, kind: str | None = None) -> int:
        return sum(one[0] == call and kind in (None, one[1]) for one in self.calls)

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        assert namespace == "team-a"
        self.calls.append(("get", kind))
        if kind in self.silent:
            raise ApiError(0, {"message": "no answer"})
        return copy.deepcopy(self.objects.get((kind, name)))

    async def apply(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        self.calls.append(("apply", kind))
        if kind in self.refusals:
            raise self.refusals[kind]
        present = self.objects.get((kind, name)) or self.put(kind, name)
        assert manifest["metadata"].get("uid", present["metadata"]["uid"]) == present["metadata"]["uid"]
        changed = {**present, **manifest, "metadata": {**present["metadata"], **manifest["metadata"]}}
        if changed != present:
            self.objects[kind, name] = copy.deepcopy(dict(changed))
            return self.touch(kind, name)
        return copy.deepcopy(present)

    async def merge(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        self.calls.append(("merge", (kind, name, copy.deepcopy(dict(patch)))))
        if kind in self.refusals:
            raise self.refusals[kind]
        return {}

    async def write_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> None:
        self.calls.append(("status", copy.deepcopy(dict(status))))
