"""Turns a settings model into a command's options, and flags, environment and a file into settings.

Every field of the model becomes a flag, an environment variable and a key of the file. The model validates a value
once, from any source, so that an error can name the source. A flag overrides the environment, which overrides the file,
which overrides the default.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_origin

import click
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource

from sponge_core.errors import SpongeError
from sponge_system.logs import masked

__all__ = ["Resolved", "SettingsCommand", "SettingsError", "render", "resolve", "settings_options"]

S = TypeVar("S", bound=BaseSettings)

UNITS = {"_ms": "MS", "_s": "SECONDS", "_bytes": "BYTES", "cores": "CORES"}
TYPES = {int: "NUMBER", float: "NUMBER", str: "TEXT", Path: "FILE"}

FIXES = {
    "int_parsing": "give a whole number",
    "int_type": "give a whole number",
    "int_from_float": "give a whole number",
    "float_parsing": "give a number",
    "float_type": "give a number",
    "bool_parsing": "give true or false",
    "bool_type": "give true or false",
    "string_type": "give text; put it in quotes",
    "path_type": "give the path of a file",
    "dict_type": "give NAME=VALUE, or a mapping in a file",
    "finite_number": "give a finite number",
    "greater_than": "give more than {gt}",
    "greater_than_equal": "give at least {ge}",
    "less_than": "give less than {lt}",
    "less_than_equal": "give at most {le}",
    "literal_error": "give one of {expected}",
    "string_pattern_mismatch": "the name must not be empty, and must not contain a slash or a space",
    "too_short": "give at least {min_length}",
}
"""The fix for each kind of validation error, by pydantic's name for the kind."""


class SettingsError(SpongeError):
    """An invalid setting. The message names its source and the fix."""


@dataclass(frozen=True, slots=True)
class Resolved(Generic[S]):
    """The settings, and for each field the source of its value, e.g. `--cores` or `default`."""

    settings: S
    sources: Mapping[str, str]


class _Option(click.Option):
    """The option of a field. Its value stays text, because the model validates it."""

    def __init__(self, name: str, field: FieldInfo, variable: str) -> None:
        flag = dashed(name)
        toggle = field.annotation is bool
        extra = _extra(field)
        self.group = str(extra.get("group", "Options"))
        shown = extra.get("shown") or ("off" if field.default is False else _plain(field.default, name))
        self.note = f"default: {shown}" if not field.is_required() else "required"
        self.note += f"; env: {variable}"
        super().__init__(
            [f"--{flag}/--no-{flag}" if toggle else f"--{flag}", name],
            default=None,
            multiple=_is_multiple(field),
            metavar=None if toggle else _metavar(name, field),
            help=f"{field.description}{' Repeat for more.' if _is_multiple(field) else ''}",
            allow_from_autoenv=False,
            type=bool if toggle else str,
        )

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return None if record is None else (record[0], f"{record[1]}  [{self.note}]")


class SettingsCommand(click.Command):
    """A command whose help lists its options under the headings of the settings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", "Other"), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def settings_options(model: type[BaseSettings]) -> list[click.Parameter]:
    """One option per field, in the model's order."""
    prefix = model.model_config["env_prefix"]
    return [_Option(name, field, f"{prefix}{name.upper()}") for name, field in model.model_fields.items()]


def resolve(model: type[S], flags: Mapping[str, Any], config: Path | None) -> Resolved[S]:
    """Reads the settings from flags (None and empty ones are not set), the environment and a file.

    Raises:
        SettingsError: a value, a key or the file is invalid.
    """
    prefix = model.model_config["env_prefix"]
    layers = (
        ({key: value for key, value in flags.items() if value not in (None, ())}, lambda key: f"--{dashed(key)}"),
        (EnvSettingsSource(model)(), lambda key: f"{prefix}{key.upper()}"),
        ({} if config is None else _read(config, model), lambda key: f"{config}: {dashed(key)}"),
    )
    values: dict[str, Any] = {}
    sources = dict.fromkeys(model.model_fields, "default")
    for layer, where in reversed(layers):
        for key, value in layer.items():
            values[key], sources[key] = value, where(key)
    try:
        return Resolved(model(**values), sources)
    except ValidationError as invalid:
        raise _explained(invalid.errors(include_url=False), model, sources, config) from None
    except SpongeError as error:
        raise _explained_contradiction(error, sources) from None


def render(resolved: Resolved[S]) -> str:
    """The settings as a file that `resolve` can read, each with a comment on its source; secrets are masked."""
    lines = []
    for name, value in resolved.settings.model_dump(mode="json").items():
        lines.append((f"{dashed(name)}: {json.dumps(_masked(value))}", resolved.sources[name]))
    width = max(len(line) for line, _ in lines if len(line) < 60)
    return "\n".join(f"{line:<{width}}  # {source}" for line, source in lines)


def dashed(name: str) -> str:
    """A field's name in flags and files."""
    return name.replace("_", "-")


def _read(path: Path, model: type[BaseSettings]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {path}: cannot be read: {error}") from None
    try:
        document = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        kind = "TOML" if path.suffix == ".toml" else "YAML"
        raise SettingsError(f"{path}: this is not {kind}: {' '.join(str(error).split())}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: write one 'key: value' a line, as in 'http-port: 8080'")
    values = {}
    for key, value in document.items():
        name = str(key).replace("-", "_")
        if name not in model.model_fields:
            raise SettingsError(f"{path}: {key}: no such setting{_similar(str(key), model.model_fields)}")
        if name in values:
            raise SettingsError(f"{path}: {key}: appears twice, with dashes and with underscores: keep one")
        values[name] = value
    return values


def _similar(key: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(dashed(key), [dashed(name) for name in names], n=1)
    return f"; did you mean {close[0]}?" if close else "; see --help for all of them"


def _explained(
    errors: Sequence[ErrorDetails], model: type[BaseSettings], sources: Mapping[str, str], config: Path | None
) -> SettingsError:
    """Explains the first error that is not a consequence of another one."""
    error = next(error for error in errors if error["type"] != "default_factory_not_called")
    name = str(error["loc"][0])
    if error["type"] == "missing":
        prefix = model.model_config["env_prefix"]
        metavar = _metavar(name, model.model_fields[name])
        where = f"--config {config}" if config else "the file of --config"
        return SettingsError(
            f"--{dashed(name)} is missing: give --{dashed(name)} {metavar}, set {prefix}{name.upper()}, or write "
            f"{dashed(name)} in {where}"
        )
    place = " ".join([sources[name], *(str(part) for part in error["loc"][1:] if part not in ("[key]", "*"))])
    context = {key: _plain(value, "") for key, value in error.get("ctx", {}).items()}
    fix = context["error"] if "error" in context else FIXES.get(error["type"], error["msg"]).format(**context)
    if isinstance(error["input"], dict | list | tuple):
        return SettingsError(f"{place}: {fix}")
    return SettingsError(f"{place} is {_masked(error['input'])!r}: {fix}")


def _explained_contradiction(error: SpongeError, sources: Mapping[str, str]) -> SpongeError:
    text, values = getattr(error, "text", None), getattr(error, "values", {})
    if text is None:
        return error
    where = {
        name: f"{dashed(name) if sources[name] == 'default' else sources[name]} {value}"
        for name, value in values.items()
    }
    return SettingsError(text.format_map(where))


def _extra(field: FieldInfo) -> Mapping[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _is_multiple(field: FieldInfo) -> bool:
    return get_origin(field.annotation) in (dict, list, tuple)


def _metavar(name: str, field: FieldInfo) -> str:
    form = _extra(field).get("form")
    if form:
        return str(form)
    for suffix, unit in UNITS.items():
        if name.endswith(suffix):
            return unit
    choices = get_args(field.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    return next((word for kind, word in TYPES.items() if kind in (field.annotation, *choices)), "VALUE")


def _plain(value: object, name: str) -> str:
    if name.endswith("_bytes") and isinstance(value, int) and value % (1 << 20) == 0:
        return f"{value >> 20}Mi"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _masked(value: Any) -> Any:
    """The value with the secrets of any address in it masked."""
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    if isinstance(value, str):
        return masked(value)
    return value
