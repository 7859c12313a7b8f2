"""Merges a partial pod template over another, by the rules that Kubernetes uses for a strategic merge patch.

Maps merge, lists of named things merge by their key, other lists are replaced, null removes. Knows only the lists of a
pod.
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
"""Lists of PodSpec that merge by a key, from the patchMergeKey tags of the API; the others are replaced as a whole."""

ONE_OF = {"httpGet", "exec", "tcpSocket", "grpc"}
"""Of these, one may be given: the patch's replaces the base's."""


def strategic_merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """`patch` over `base`; neither is changed. A null in `patch` removes the key."""
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
