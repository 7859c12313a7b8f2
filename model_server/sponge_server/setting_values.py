"""Values of settings as users write them: CPU sizes, bytes, and values by name; and what declares one setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer
from pydantic.config import JsonDict
from pydantic_settings import NoDecode

from sponge_core.errors import SpongeError
from sponge_core.quantities import parse_cores

__all__ = [
    "BY_MODEL",
    "EVERY",
    "FILE",
    "LONGEST_SLO_MS",
    "Accuracy",
    "Bytes",
    "Cores",
    "Milliseconds",
    "ModelName",
    "Port",
    "Positive",
    "Seconds",
    "bytes_or_none",
    "named",
    "setting",
]

LONGEST_SLO_MS = 3_600_000

EVERY = "*"
"""Key of the value for every model without one of its own."""


def setting(group: str, text: str, default: Any = ..., *, form: str = "", shown: str = "", **more: Any) -> Any:
    """One setting, as `--help` and the documentation show it.

    Args:
        group: heading in `--help` and in the documentation.
        text: what it does.
        default: without one, the setting is required.
        form: how a value looks, if its type does not say it.
        shown: the default as shown, if it depends on other settings.
        more: arguments of pydantic's Field.
    """
    extra: JsonDict = {"group": group, "form": form, "shown": shown}
    return Field(
        **({} if "default_factory" in more else {"default": default}), description=text, json_schema_extra=extra, **more
    )


def _cores(value: object) -> object:
    """Cores from CPU as Kubernetes writes it, `500m` or `0.5`."""
    try:
        cores = parse_cores(str(value))
    except SpongeError:
        cores = 0.0
    if cores <= 0:
        raise ValueError("write a CPU size above 0, as 0.5 or 500m")
    return cores


def _bytes(value: object) -> object:
    """Bytes from a number of bytes, or of `Ki`, `Mi`, `Gi` as Kubernetes writes them."""
    text = str(value)
    factor = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}.get(text[-2:])
    digits = text if factor is None else text[:-2]
    if not digits.isdecimal():
        raise ValueError("write a size in bytes, as 65536 or 64Mi")
    return int(digits) * (factor or 1)


def bytes_or_none(value: object) -> object:
    """Bytes, or None where the setting has no value."""
    return None if value is None else _bytes(value)


def named(form: str) -> BeforeValidator:
    """Turns words such as `gold=300`, in a list or separated by spaces, into a mapping; a file may hold a mapping."""

    def check(value: object) -> object:
        words = value.split() if isinstance(value, str) else value
        if not isinstance(words, list | tuple):
            return value
        pairs: dict[str, str] = {}
        for word in words:
            name, separator, text = str(word).partition("=")
            if not (name and separator and text):
                raise ValueError(f"{word!r} is not of the form {form}")
            if name in pairs:
                raise ValueError(f"{name!r} appears twice: give each name once")
            pairs[name] = text
        return pairs

    return BeforeValidator(check)


def _by_model(value: object) -> object:
    """Turns `VALUE` for every model and `NAME=VALUE` for one, in a list or separated by spaces, into a mapping by name.

    The last value counts, as for an option that takes one value.
    """
    if isinstance(value, Mapping):
        return value
    pairs: dict[str, object] = {}
    for word in value.split() if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]:
        name, separator, text = str(word).partition("=")
        if separator and "/" not in name:  # a path may contain the sign too, and no model name has a slash
            pairs[name] = text
        else:
            pairs[EVERY] = word
    return pairs


def _shortly(values: dict[str, Any]) -> object:
    return values[EVERY] if values.keys() == {EVERY} else values


Accuracy = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Cores = Annotated[float, BeforeValidator(_cores)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(gt=0, le=LONGEST_SLO_MS, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65535)]
ModelName = Annotated[str, Field(pattern=r"^[^/\s]+$")]
BY_MODEL = (NoDecode, BeforeValidator(_by_model), PlainSerializer(_shortly))

FILE: dict[str, Any] = {"form": "FILE", "shown": "none"}
"""How a setting that may name a file is shown."""
