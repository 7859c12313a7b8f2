"""One event a line on stderr, with fields, not prose: as text for people, as JSON for programs.

Use `event(logger, "resize.applied", cores=1.5, took_s=0.03)`. What libraries log in their own way comes out in the same
form, as the event `message`. Passwords and tokens in addresses are masked, whatever logged them. The same warning comes
at most once in `QUIET_S` seconds, with the number of those held back. Knows nothing of what is logged.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf
from typing import Literal

import orjson

__all__ = ["Format", "event", "masked", "set_up"]

Format = Literal["auto", "text", "json"]

QUIET_S = 5.0
"""Between two warnings that say the same."""

MOST_REMEMBERED = 1000
"""Kinds of warnings that are told apart; a library that writes numbers into its messages must not fill the memory."""

IDENTITIES = ("model", "lane", "kind", "name")
"""Fields that tell what a warning is about: the same event about another lane is another warning."""

SECRETS = (
    (re.compile(r"(://[^/\s:@]*:)[^/\s@]+@"), r"\1***@"),
    (
        re.compile(r"([?&][\w.-]*(?:token|secret|signature|password|credential|key)=)[^&\s'\"]+", re.IGNORECASE),
        r"\1***",
    ),
)


def event(logger: logging.Logger, name: str, level: int = logging.INFO, /, **fields: object) -> None:
    """Logs one event with its fields."""
    if logger.isEnabledFor(level):
        logger.log(level, name, extra={"fields": fields})


def set_up(level: str, form: Format = "auto") -> None:
    """Sends every logger of the process to stderr in the one format; `auto` is text on a terminal, else JSON."""
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if as_json else _TextFormatter())
    handler.addFilter(_Quiet(time.monotonic))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # The HTTP library narrates its own life; only its complaints are of interest.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def masked(text: str) -> str:
    """The text without the secrets of any address in it."""
    if "://" in text:
        for pattern, replacement in SECRETS:
            text = pattern.sub(replacement, text)
    return text


class _Quiet(logging.Filter):
    """Holds back warnings that say the same as one a moment ago, and has the next one tell how many."""

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
        return orjson.dumps({**head, **fields, **head}, default=str).decode()


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        name, fields = _event_of(record)
        words = [f"{key}={_shown(value)}" for key, value in fields.items()]
        line = " ".join([_time(record), record.levelname.lower(), record.name, name, *words])
        return f"{line}\n{masked(self.formatException(record.exc_info))}" if record.exc_info else line


def _event_of(record: logging.LogRecord) -> tuple[str, dict[str, object]]:
    """Name and fields, secrets masked; what was not logged by `event` is a `message` with a text."""
    ours = getattr(record, "fields", None)
    name, fields = ("message", {"text": record.getMessage()}) if ours is None else (str(record.msg), dict(ours))
    if hasattr(record, "suppressed"):
        fields["suppressed"] = record.suppressed
    return name, {key: _plain(value) for key, value in fields.items()}


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float) else masked(str(value))


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if text and not re.search(r"[\s\"=]", text) else orjson.dumps(text).decode()
