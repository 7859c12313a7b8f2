"""Rows of text files, with errors that name the file, the line and the fix."""

from __future__ import annotations

import math
from collections.abc import Iterable

from sponge_core.errors import TraceError

__all__ = ["number_of", "numbered"]


def numbered(lines: Iterable[str]) -> Iterable[tuple[int, str]]:
    """The lines that are not empty, stripped, with their numbers from 1."""
    return ((number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip())


def number_of(text: str, name: str, number: int, what: str, hint: str) -> float:
    """The number >= 0 in a field.

    Args:
        text: the field.
        name: of the file.
        number: of the line.
        what: the field's name.
        hint: what to write instead.

    Raises:
        TraceError: it is not such a number.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise TraceError(f"{name}, line {number}: {what} is {text!r}; write {hint}")
    return value
