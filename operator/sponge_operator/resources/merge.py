"""Merges partial pod templates by the rules of a Kubernetes strategic merge patch.

Maps are merged, lists of named things are merged by their key, other lists are replaced, and null removes a key. Only
the lists of a pod are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["strategic_merge"]

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "ports": "containerPort",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""Lists of PodSpec that are merged by a key, from the patchMergeKey tags of the API; other lists are replaced."""

ONE_OF = {"httpGet", "exec", "tcpSocket", "grpc"}
"""Only one of these may be given; the one of the patch replaces the one of the base."""


def strategic_merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A new map with `patch` merged over `base`; null in `patch` removes a key."""
    merged = dict(base)
    if ONE_OF & patch.keys():
        for key in ONE_OF - patch.keys():
            merged.pop(key, None)
    for key, value in patch.items():
        before = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(before, Mapping):
            merged[key] = strategic_merge(before, value)
        elif isinstance(value, list) and isinstance(before, list) and key in MERGE_KEYS:
            merged[key] = _merge_by_key(before, value, MERGE_KEYS[key])
        else:
            merged[key] = value
    return merged


def _merge_by_key(base: list[Any], patch: list[Any], key: str) -> list[Any]:
    merged = list(base)
    places = {item.get(key): index for index, item in enumerate(merged)}
    for item in patch:
        place = places.get(item.get(key))
        if place is None:
            merged.append(item)
        else:
            merged[place] = strategic_merge(merged[place], item)
    return merged
