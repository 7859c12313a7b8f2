"""Reads files whose options are to be named in errors, and writes files that the proxy watches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sponge_core.errors import SpongeError

__all__ = ["read", "write"]


def read(path: Path, option: str) -> bytes:
    """The content of a file. Raises SpongeError, which names the option that it comes from."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SpongeError(f"{option} {path}: cannot be read: {error.strerror}") from None


def write(path: Path, document: Mapping[str, Any]) -> None:
    """In one step, because the proxy reads a file as soon as it appears. Raises SpongeError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(json.dumps(document, indent=1))
        new.replace(path)
    except OSError as error:
        raise SpongeError(f"cannot write {path}: {error.strerror}; choose another --directory") from None
