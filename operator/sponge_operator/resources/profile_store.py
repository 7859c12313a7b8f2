"""The ConfigMap with the latency profiles that the pods of a service have measured. Pure.

A pod mounts it and takes the profile that fits its model, image and type of CPU, so it need not measure. The key of a
profile is PREFIX-CPUTYPE.yaml; the prefix stands for the model's source and the image as the Deployment names it. The
source may change while the pod runs; its part of the prefix reaches a container by a variable, when it starts.
Behind the image's name the image may change, so the digest that was measured is kept beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from sponge_core.resource_names import GROUP
from sponge_operator.resources.containers import container_variable
from sponge_operator.resources.model import SpongeService

__all__ = [
    "DIGEST_ANNOTATION",
    "SOURCE_HASH_VARIABLE",
    "STORE_DIR",
    "STORE_VARIABLE",
    "digest_of",
    "prefix_of",
    "source_hash",
    "store_name",
    "store_prefix",
    "with_profile",
    "without_profile",
]

STORE_DIR = "/etc/sponge/profile-store"
STORE_VARIABLE = "SPONGE_SERVE_PROFILE_STORE"
SOURCE_HASH_VARIABLE = "SPONGE_SOURCE_HASH"
DIGEST_ANNOTATION = f"{GROUP}/image-digest"


def store_name(service: SpongeService) -> str:
    return f"{service.name}-sponge-profiles"


def source_hash(source: str) -> str:
    """Stands for a source, in the names of files."""
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def store_prefix(image: str) -> str:
    """Stands for a model in an image; a container puts the hash of its source in."""
    return f"$({SOURCE_HASH_VARIABLE})-{hashlib.sha256(image.encode()).hexdigest()[:12]}"


def prefix_of(pod: Mapping[str, Any], container: str, source: str) -> str | None:
    """The prefix of a pod's profiles while it serves a source; None if it has a profile from elsewhere."""
    value = (container_variable(pod, container, STORE_VARIABLE) or {}).get("value")
    return PurePosixPath(value).name.replace(f"$({SOURCE_HASH_VARIABLE})", source_hash(source)) if value else None


def with_profile(
    present: Mapping[str, Any] | None, prefix: str, cpu_type: str, digest: str, profile: str
) -> dict[str, Any] | None:
    """Data and annotations of the ConfigMap with one more profile; None if it has that already.

    Profiles of another model, image or digest go: the pods to come have no use for them.

    Args:
        present: the ConfigMap as it is.
        digest: of the image that was measured; empty if it is not known.
        profile: the file's text.
    """
    key = f"{prefix}-{cpu_type}.yaml"
    data = _usable(present, prefix, digest)
    if data.get(key) == profile:
        return None
    return {"data": {**data, key: profile}, "annotations": {DIGEST_ANNOTATION: digest}}


def without_profile(
    present: Mapping[str, Any] | None, prefix: str, cpu_type: str, digest: str
) -> dict[str, Any] | None:
    """The same without the profile of one CPU type, which the pods to come measure again; None if there is none."""
    key = f"{prefix}-{cpu_type}.yaml"
    if key not in ((present or {}).get("data") or {}):
        return None
    data = _usable(present, prefix, digest)
    data.pop(key, None)
    return {"data": data, "annotations": {DIGEST_ANNOTATION: digest}}


def digest_of(present: Mapping[str, Any] | None) -> str | None:
    """The digest of the image that the stored profiles were measured in."""
    annotations = ((present or {}).get("metadata") or {}).get("annotations") or {}
    return annotations.get(DIGEST_ANNOTATION)


def _usable(present: Mapping[str, Any] | None, prefix: str, digest: str) -> dict[str, str]:
    if digest_of(present) != digest:
        return {}
    data = (present or {}).get("data") or {}
    return {key: text for key, text in data.items() if key.startswith(f"{prefix}-")}
