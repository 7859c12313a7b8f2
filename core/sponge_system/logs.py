"""Logging: one event per line on stderr, with fields instead of prose, as text for people or JSON for programs.

Use `event(logger, "resize.applied", cores=1.5, took_s=0.03)`. Messages of libraries get the same form, as the event
`message`. Passwords and tokens in addresses are masked, whatever logged them. The same warning is logged at most once
in `QUIET_S` seconds, with the number of suppressed ones.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from math import inf, isfinite
from typing import Literal

__all__ = ["Format", "Level", "event", "masked", "set_up"]

Format = Literal["auto", "text", "json"]
Level = Literal["debug", "info", "warning", "error"]

QUIET_S = 5.0
"""Seconds between two equal warnings."""

MOST_REMEMBERED = 1000
"""Number of different warnings remembered: a library that writes numbers into its messages must not fill the memory."""

IDENTITIES = ("model", "lane", "kind", "name", "service", "pod", "node", "reason")
"""Fields that identify the subject of a warning: the same event about another lane is another warning."""

SECRETS = (
    (re.compile(r"(://[^/\s:@]*:)[^/\s@]+@"), r"\1***@"),
    (
        re.compile(r"([?&][\w.-]*(?:token|secret|signature|password|credential|key)=)[^&\s'\"]+", re.IGNORECASE),
        r"\1***",
    ),
)


def event(logger: logging.Logger, name: str, level: int = logging.INFO, /, **fields: object) -> None:
    """Logs one event with its fields. `name` is dotted, as `lane.lost`."""
    if logger.isEnabledFor(level):
        logger.log(level, name, extra={"fields": fields})


def set_up(level: Level, form: Format = "auto", quiet: Iterable[str] = ()) -> None:
    """Sends every logger of the process to stderr in one format.

    Args:
        level: the lowest one that is logged.
        form: `auto` is text on a terminal, else JSON.
        quiet: loggers of libraries that log only warnings and errors.
    """
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else _TextFormatter())
    handler.addFilter(_Quiet(time.monotonic))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in ("uvicorn", *quiet):  # uvicorn logs its own start and stop
        logging.getLogger(name).setLevel(logging.WARNING)


def masked(text: str) -> str:
    """The text with the secrets of any address masked."""
    if "://" in text:
        for pattern, replacement in SECRETS:
            text = pattern.sub(replacement, text)
    return text


class _Quiet(logging.Filter):
    """Suppresses warnings equal to a recent one, and adds their number to the next."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[tuple[object, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        now = self._clock()
        fields = getattr(record, "fields", {})
        about = tuple(str(fields[name]) for name in IDENTITIES if name in fields)
        key = (record.name, record.levelno, record.msg, about)
        last, held_back = self._said.get(key, (-inf, 0))
        if now - last < QUIET_S:
            self._said[key] = (last, held_back + 1)
            return False
        if len(self._said) >= MOST_REMEMBERED:
            self._said.clear()
        self._said[key] = (now, 0)
        if held_back:
            record.suppressed = held_back
        return True


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        name, fields = _event_of(record)
        if record.exc_info:
            fields["exception"] = masked(self.formatException(record.exc_info))
        head = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name, "event": name}
        return _json({**head, **fields, **head})


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        name, fields = _event_of(record)
        words = [f"{key}={_shown(value)}" for key, value in fields.items()]
        line = " ".join([_time(record), record.levelname.lower(), record.name, name, *words])
        return f"{line}\n{masked(self.formatException(record.exc_info))}" if record.exc_info else line


def _event_of(record: logging.LogRecord) -> tuple[str, dict[str, object]]:
    """Name and fields, with secrets masked. A record that `event` did not log is a `message` with its text."""
    ours = getattr(record, "fields", None)
    name, fields = ("message", {"text": record.getMessage()}) if ours is None else (str(record.msg), dict(ours))
    if hasattr(record, "suppressed"):
        fields["suppressed"] = record.suppressed
    return name, {key: _plain(value) for key, value in fields.items()}


def _plain(value: object) -> object:
    if isinstance(value, float) and not isfinite(value):
        return None  # JSON has no such number
    return value if value is None or isinstance(value, bool | int | float) else masked(str(value))


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if text and not re.search(r"[\s\"=]", text) else _json(text)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
