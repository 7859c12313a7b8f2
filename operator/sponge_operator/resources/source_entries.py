"""The sources in a service's ConfigMap, and how containers that start get theirs. Pure.

A pod template names the entry of a source, not the source. So the source of running pods can change without a new
template; a container that starts again afterwards gets the new one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sponge_operator.resources.containers import container_variable
from sponge_operator.resources.profile_store import SOURCE_HASH_VARIABLE, source_hash

__all__ = ["SOURCE_VARIABLE", "source_data", "source_key_of", "source_variables", "sources_of"]

SOURCE_VARIABLE = "SPONGE_SOURCE"

_SOURCE, _HASH = "source.", "source-hash."
"""Before the key of a source."""


def source_data(sources: Mapping[str, str]) -> dict[str, str]:
    """The ConfigMap's data for sources by key."""
    named = {f"{_SOURCE}{key}": source for key, source in sources.items()}
    return named | {f"{_HASH}{key}": source_hash(source) for key, source in sources.items()}


def sources_of(config_map: Mapping[str, Any] | None) -> dict[str, str]:
    """The sources in a ConfigMap, by key."""
    data = (config_map or {}).get("data") or {}
    return {key.removeprefix(_SOURCE): text for key, text in data.items() if key.startswith(_SOURCE)}


def source_variables(key: str) -> Iterator[tuple[str, str]]:
    """Names of a container's variables, each with the entry of the ConfigMap that it takes its value from."""
    yield SOURCE_VARIABLE, f"{_SOURCE}{key}"
    yield SOURCE_HASH_VARIABLE, f"{_HASH}{key}"


def source_key_of(pod: Mapping[str, Any], container: str) -> str | None:
    """The key of the source that a pod's container starts with; None for a pod of an earlier operator."""
    variable = container_variable(pod, container, SOURCE_VARIABLE) or {}
    entry = ((variable.get("valueFrom") or {}).get("configMapKeyRef") or {}).get("key")
    return None if entry is None else str(entry).removeprefix(_SOURCE)
