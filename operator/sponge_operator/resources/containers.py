"""One container of a pod: its spec, its status and its variables. Pure.

Pods come in as the API server sends them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["container_limit", "container_spec", "container_status", "container_variable"]


def container_spec(pod: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The container in the spec; None if there is none of that name."""
    return _named(pod["spec"]["containers"], name)


def container_status(pod: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """What the kubelet reports of the container; None before it reports."""
    return _named((pod.get("status") or {}).get("containerStatuses") or (), name)


def container_limit(container: Mapping[str, Any] | None, resource: str) -> str | None:
    """The limit of "cpu" or "memory" in a container's spec or status; None if there is none."""
    return (((container or {}).get("resources") or {}).get("limits") or {}).get(resource)


def container_variable(pod: Mapping[str, Any], container: str, name: str) -> Mapping[str, Any] | None:
    """A variable of the container as its spec defines it; None if it has none of that name."""
    return _named((container_spec(pod, container) or {}).get("env") or (), name)


def _named(items: Iterable[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    return next((item for item in items if item["name"] == name), None)
