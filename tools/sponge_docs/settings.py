"""The reference page of the settings: `sponge serve`, `sponge operator run` and the Helm chart's values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from sponge_cli.operator import run as operator_run
from sponge_cli.options import dashed, settings_options
from sponge_docs.markdown import code, front, table
from sponge_server.settings import ServerSettings

__all__ = ["VALUES", "Value", "chart_values", "settings_page"]

VALUES = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "sponge" / "values.yaml"
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9]*):")


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the chart: dotted path, default and the comment above it."""

    path: str
    default: str
    text: str


def settings_page() -> str:
    """Markdown of the page."""
    parts = [
        front(
            "Settings",
            "The settings of the model server, of the operator and of the Helm chart. "
            "[Operate a server](../guides/model-server.md) explains where settings come from and which one wins.",
            "`model_server/sponge_server/settings.py`, `cli/sponge_cli/operator.py` and "
            "`deploy/helm/sponge/values.yaml`",
        ),
        "## Model server",
        "Each setting is a flag of `sponge serve`, an environment variable and a key of the configuration file. The "
        "key is the flag without its leading dashes.",
        *_server(),
        "## Operator",
        "The flags of `sponge operator run`. The Helm chart sets them.",
        table(("flag", "variable", "default", "what"), _operator()),
        "## Helm chart",
        "The values of the chart in `deploy/helm/sponge`.",
        table(("value", "default", "what"), ((code(v.path), v.default, v.text) for v in chart_values())),
    ]
    return "\n\n".join(parts) + "\n"


def _server() -> Iterator[str]:
    prefix = ServerSettings.model_config["env_prefix"]
    groups: dict[str, list[tuple[str, str, str, str]]] = {}
    for option in settings_options(ServerSettings):
        assert isinstance(option, click.Option)
        assert option.name is not None
        note, group = str(vars(option)["note"]), str(vars(option)["group"])
        default = note.partition(";")[0].removeprefix("default: ")
        flag = f"--{dashed(option.name)}" + (f" {option.metavar}" if option.metavar else "")
        row = (code(flag), code(f"{prefix}{option.name.upper()}"), _default(default), option.help or "")
        groups.setdefault(group, []).append(row)
    for group, rows in groups.items():
        yield f"### {group}"
        yield table(("flag", "variable", "default", "what"), rows)


def _default(text: str) -> str:
    return "**required**" if text == "required" else text


def _operator() -> Iterator[tuple[str, str, str, str]]:
    for option in operator_run.params:
        assert isinstance(option, click.Option)
        assert option.name is not None
        kind = f" {option.metavar or option.type.name.upper()}"
        if isinstance(option.type, click.Choice):
            kind = f" {'|'.join(option.type.choices)}"
        default = "" if option.default is None or repr(option.default).startswith("Sentinel") else str(option.default)
        text, _, note = (option.help or "").partition("  [default: ")
        name = option.opts[0].lstrip("-").replace("-", "_").upper()
        yield code(option.opts[0] + kind), code(f"SPONGE_OPERATOR_RUN_{name}"), note.rstrip("]") or default, text


def chart_values() -> list[Value]:
    """Every value of the chart, top to bottom; a mapping that is empty or has no comments below counts as one value."""
    text = VALUES.read_text(encoding="utf-8")
    found: list[Value] = []
    _walk(yaml.safe_load(text), (), _comments(text), found)
    return found


def _walk(
    tree: dict[str, Any], above: tuple[str, ...], comments: dict[tuple[str, ...], str], found: list[Value]
) -> None:
    for key, value in tree.items():
        path = (*above, key)
        if isinstance(value, dict) and value:
            if path in comments:
                found.append(Value(".".join(path), "", comments[path]))
            _walk(value, path, comments, found)
        else:
            default = {"": "empty", "[]": "empty", "{}": "empty"}.get(str(value), code(str(value)))
            default = default.lower() if isinstance(value, bool) else default
            found.append(Value(".".join(path), default, comments.get(path, "")))


def _comments(text: str) -> dict[tuple[str, ...], str]:
    """The comment lines above each key, by the key's path."""
    comments: dict[tuple[str, ...], str] = {}
    pending: list[str] = []
    stack: list[tuple[int, str]] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            pending.append(line.lstrip(" #").removeprefix("-- "))
            continue
        if (key := _KEY.match(line)) is not None:
            indent = len(key["indent"])
            stack = [item for item in stack if item[0] < indent] + [(indent, key["key"])]
            if pending:
                comments[tuple(name for _, name in stack)] = " ".join(pending)
        pending = []
    return comments
