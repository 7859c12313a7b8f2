"""The reference page of the SpongeService resource, from its CustomResourceDefinition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sponge_docs.markdown import code, front, table

__all__ = ["CRD", "Field", "crd_page", "fields"]

CRD = Path(__file__).resolve().parents[2] / "crds" / "spongeservice.yaml"
UNKNOWN = "x-kubernetes-preserve-unknown-fields"
RULES = "x-kubernetes-validations"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the resource; `path` is dotted, with `[]` behind a list."""

    path: str
    kind: str
    default: str
    required: bool
    text: str
    rules: tuple[str, ...]


def crd_page() -> str:
    """Markdown of the page."""
    definition = yaml.safe_load(CRD.read_text(encoding="utf-8"))
    version = definition["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    group, names = definition["spec"]["group"], definition["spec"]["names"]
    parts = [
        front(
            f"{names['kind']}",
            f"The custom resource `{names['kind']}` of `{group}/{version['name']}`; its short name is "
            f"`{names['shortNames'][0]}`. `kubectl explain spongeservice.spec` shows the same text. The API server "
            "checks every rule below when a resource is applied, and answers with the message.",
            "`crds/spongeservice.yaml`",
        ),
        "## Columns of `kubectl get sps`",
        table(
            ("column", "comes from", "what"),
            (
                (column["name"].upper(), code(column["jsonPath"]), column.get("description", ""))
                for column in version["additionalPrinterColumns"]
            ),
        ),
        "## Metadata\n",
        "\n".join(f"- {rule['message']}" for rule in schema[RULES]),
    ]
    for part in ("spec", "status"):
        found = list(fields(schema["properties"][part], part, required=part in schema["required"]))
        parts += [f"## {part}", found[0].text, _table(found[1:])]
        rules = [(field.path, rule) for field in found for rule in field.rules]
        if rules:
            parts += [
                f"### Rules of the {part}",
                table(("field", "rule"), ((code(path), rule) for path, rule in rules)),
            ]
    return "\n\n".join(parts) + "\n"


def _table(found: list[Field]) -> str:
    return table(
        ("field", "type", "default", "what"),
        (
            (code(field.path), field.kind, "**required**" if field.required else field.default, field.text)
            for field in found
        ),
    )


def fields(schema: Mapping[str, Any], path: str, *, required: bool = False) -> Iterator[Field]:
    """This field and all below it, in the order of the definition."""
    default = code(_plain(schema["default"])) if "default" in schema else ""
    rules = tuple(dict.fromkeys(rule["message"] for rule in schema.get(RULES, ())))
    yield Field(path, _kind(schema), default, required, schema.get("description", ""), rules)
    below = schema
    if schema.get("type") == "array":
        below, path = schema["items"], f"{path}[]"
    for name, child in below.get("properties", {}).items():
        yield from fields(child, f"{path}.{name}", required=name in below.get("required", ()))


def _kind(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(code(_plain(value)) for value in schema["enum"])
    if "anyOf" in schema:
        return "quantity"
    kind = str(schema.get("type", ""))
    if kind == "array":
        return f"list of {_kind(schema['items'])}s"
    if kind == "object" and schema.get(UNKNOWN):
        return "object (free form)"
    low, high = schema.get("minimum"), schema.get("maximum")
    bounds = f", {low} to {high}" if low is not None and high is not None else ""
    return kind + bounds


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) + "}"
    return str(value)
