"""What pods have cost, from a watch of the Kubernetes API: sizes over time, starts, resizes and restarts. Pure.

A pod counts from when it is bound to a node until it is gone, with the CPU limit of its spec, as a bill would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sponge_core.quantities import parse_cpu_milli
from sponge_demo.steps import corners, mean_of
from sponge_operator.resources.manifests import CONTAINER

__all__ = ["Account", "PodLog", "is_ready", "limit_milli"]

Event = Mapping[str, Any]
"""One event of a watch: `type` and `object`."""


@dataclass(slots=True)
class _Pod:
    """One pod. Times are those of the watch."""

    first_seen: float
    sizes: list[tuple[float, int]] = field(default_factory=list)  # from this time on, millicores
    ready_at: float | None = None
    gone_at: float | None = None
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Account:
    """What the pods did during a run. `steps`: (seconds after its begin, cores of all pods from then on)."""

    mean_cores: float
    resizes: int
    started: int
    restarts: int
    cold_starts_s: tuple[float, ...]
    steps: tuple[tuple[float, float], ...]


class PodLog:
    """The pods of one service, by the events of a watch."""

    def __init__(self) -> None:
        self._pods: dict[str, _Pod] = {}
        self._present: dict[str, Mapping[str, Any]] = {}

    @property
    def serving(self) -> list[Mapping[str, Any]]:
        """The pods that are not on their way out, oldest first."""
        pods = [pod for pod in self._present.values() if "deletionTimestamp" not in pod["metadata"]]
        return sorted(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    @property
    def held_milli(self) -> int:
        """The CPU limits of all pods on the node now, also of those on their way out."""
        return sum(limit_milli(pod) for pod in self._present.values())

    def see(self, at: float, event: Event) -> None:
        """Takes an event that came at `at` seconds."""
        pod = event["object"]
        if event["type"] not in ("ADDED", "MODIFIED", "DELETED") or pod.get("kind") != "Pod":
            return
        uid = pod["metadata"]["uid"]
        record = self._pods.setdefault(uid, _Pod(at))
        status = pod.get("status", {})
        if event["type"] == "DELETED":
            record.gone_at = at
            self._present.pop(uid, None)
            return
        self._present[uid] = pod
        milli = limit_milli(pod) if pod["spec"].get("nodeName") else 0
        if not record.sizes or record.sizes[-1][1] != milli:
            record.sizes.append((at, milli))
        if record.ready_at is None and is_ready(pod):
            record.ready_at = at
        record.restarts = sum(each["restartCount"] for each in status.get("containerStatuses", ()))

    def account(self, began: float, ended: float) -> Account:
        """The account from `began` to `ended`, on the clock of the events."""
        pods = list(self._pods.values())
        changes = sorted({at for pod in pods for at, _ in pod.sizes} | {pod.gone_at for pod in pods if pod.gone_at})
        line = corners([(at - began, sum(_size(pod, at) for pod in pods) / 1000) for at in changes], ended - began)
        resized = [at for pod in pods for at, _ in _resizes(pod.sizes)]
        return Account(
            mean_cores=round(mean_of(line), 3) if line else 0.0,
            resizes=sum(began <= at < ended for at in resized),
            started=sum(began <= pod.first_seen < ended for pod in pods),
            restarts=sum(pod.restarts for pod in pods),
            cold_starts_s=tuple(
                round(pod.ready_at - pod.first_seen, 2) for pod in pods if pod.ready_at and pod.ready_at > began
            ),
            steps=tuple((round(at, 3), cores) for at, cores in line),
        )


def limit_milli(pod: Mapping[str, Any]) -> int:
    """The CPU limit of the container that serves; 0 without one."""
    for container in pod["spec"]["containers"]:
        if container["name"] == CONTAINER:
            return parse_cpu_milli(container["resources"].get("limits", {}).get("cpu", "0"))
    return 0


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether the pod gets requests from its Service."""
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _size(pod: _Pod, at: float) -> int:
    if pod.gone_at is not None and at >= pod.gone_at:
        return 0
    return next((milli for since, milli in reversed(pod.sizes) if since <= at), 0)


def _resizes(sizes: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """The changes from one size to another; the first size is none."""
    sized = [(at, milli) for at, milli in sizes if milli]
    return sized[1:]
