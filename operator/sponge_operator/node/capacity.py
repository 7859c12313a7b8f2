"""The CPU that pods hold of their node. Pure.

Counted like the scheduler and the kubelet do, because they refuse what exceeds their sums. Pods and nodes come in as
the API server sends them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sponge_core.quantities import parse_cpu_milli
from sponge_operator.resources.containers import container_spec

__all__ = ["NodeView", "asked_milli", "container_milli", "pod_milli", "view_of"]


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node at one moment: its CPU for pods, and the CPU that each pod on it holds, by uid."""

    allocatable_milli: int
    held_milli: Mapping[str, int]


def view_of(node: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]) -> NodeView:
    """The view of a node and the pods bound to it; ended pods hold nothing."""
    held = {pod["metadata"]["uid"]: pod_milli(pod) for pod in pods if not _ended(pod)}
    return NodeView(parse_cpu_milli(node["status"]["allocatable"]["cpu"]), held)


def pod_milli(pod: Mapping[str, Any]) -> int:
    """The CPU of a pod: the larger of its containers with side-cars and its init containers, plus the overhead."""
    spec = pod["spec"]
    overhead = _cpu(spec.get("overhead"))
    of_the_pod = _cpu((spec.get("resources") or {}).get("requests"))
    if of_the_pod:
        return of_the_pod + overhead
    sidecars = start = 0
    for container in spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            sidecars += _container(pod, container)
        else:
            start = max(start, sidecars + _container(pod, container))
    return max(start, sidecars + sum(_container(pod, container) for container in spec["containers"])) + overhead


def container_milli(pod: Mapping[str, Any], name: str) -> int:
    """The CPU that one container holds; 0 if there is none of that name."""
    container = container_spec(pod, name)
    return 0 if container is None else _container(pod, container)


def asked_milli(pod: Mapping[str, Any], name: str) -> int:
    """The CPU that the spec requests for one container."""
    return _cpu(((container_spec(pod, name) or {}).get("resources") or {}).get("requests"))


def _container(pod: Mapping[str, Any], container: Mapping[str, Any]) -> int:
    """The largest of requested, allocated and actual CPU, because a resize may be under way."""
    asked = _cpu((container.get("resources") or {}).get("requests"))
    status = pod.get("status") or {}
    for one in (*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())):
        if one["name"] == container["name"]:
            actual = _cpu((one.get("resources") or {}).get("requests"))
            return max(asked, _cpu(one.get("allocatedResources")), actual)
    return asked


def _cpu(resources: Mapping[str, Any] | None) -> int:
    return parse_cpu_milli((resources or {}).get("cpu", 0))


def _ended(pod: Mapping[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
