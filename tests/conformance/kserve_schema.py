"""Compares a manifest with KServe's and Kubernetes' own models, in an environment that has them.

Reads the manifest as JSON from standard input, and prints every member that they lack or that has another type.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import kserve.models
import kubernetes.client

SIMPLE: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (int, float),
    "object": (object,),
}


def differences(value: Any, kind: str, where: str) -> list[str]:
    """Where `value` is no `kind`, as the generated models name it."""
    inner = re.fullmatch(r"(list|dict)[\[(](?:str, )?(.+)[\])]", kind, re.IGNORECASE)
    if inner is not None:
        if not isinstance(value, dict if inner[1].lower() == "dict" else list):
            return [f"{where}: no {kind}"]
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        return [text for key, entry in entries for text in differences(entry, inner[2], f"{where}.{key}")]
    if kind in SIMPLE:
        fits = isinstance(value, SIMPLE[kind]) and (kind == "bool" or not isinstance(value, bool))
        return [] if fits else [f"{where}: {value!r} is no {kind}"]
    model = getattr(kserve.models, kind, None) or getattr(kubernetes.client, kind)
    if not isinstance(value, dict):
        return [f"{where}: no {kind}"]
    names = {shown: name for name, shown in model.attribute_map.items()}
    found = [f"{where}.{shown}: {kind} has no such member" for shown in value.keys() - names.keys()]
    for shown in value.keys() & names.keys():
        found += differences(value[shown], model.openapi_types[names[shown]], f"{where}.{shown}")
    return found


if __name__ == "__main__":
    manifest = json.load(sys.stdin)
    version = manifest["apiVersion"].rpartition("/")[2]
    print("\n".join(differences(manifest, version.capitalize() + manifest["kind"], manifest["kind"])))
