"""Puts the comments of the chart's values into its schema, as descriptions: editors show them.

python -m sponge_docs.chart_schema
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from sponge_docs.settings import VALUES, chart_values

__all__ = ["SCHEMA", "described", "undescribed"]

SCHEMA = VALUES.with_name("values.schema.json")
DEFINITION = "#/definitions/"


def described() -> str:
    """The text of the schema with the comments of now."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    definitions: Mapping[str, Any] = schema.pop("definitions", {})
    for name in schema["properties"]:
        schema["properties"][name] = _resolved(schema["properties"][name], definitions)
    for value in chart_values():
        found = _find(schema, value.path)
        if found is not None and value.text:
            found.pop("description", None)
            found["description"] = value.text
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def undescribed(schema: Mapping[str, Any], path: str = "") -> list[str]:
    """Paths of the properties without a description."""
    lacking = []
    for name, child in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        lacking += [] if child.get("description") else [here]
        lacking += undescribed(child, here)
    return lacking


def _find(schema: Mapping[str, Any], path: str) -> dict[str, Any] | None:
    """The schema of a value; None where the value is free, such as the fields of a security context."""
    found: Any = schema
    for name in path.split("."):
        found = found.get("properties", {}).get(name)
        if found is None:
            return None
    assert isinstance(found, dict)
    return found


def _resolved(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Without references: beside one, a description does not count."""
    if isinstance(schema, list):
        return [_resolved(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if (name := schema.get("$ref")) is not None:
        return _resolved(copy.deepcopy(definitions[name.removeprefix(DEFINITION)]), definitions)
    return {key: _resolved(value, definitions) for key, value in schema.items()}


if __name__ == "__main__":
    SCHEMA.write_text(described(), encoding="utf-8")
