"""The version of Sponge, which is written by hand in one place: `pyproject.toml` at the top of the source tree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

__all__ = ["ROOT", "VERSION", "ReleaseError", "read_version", "write_version"]

ROOT = Path(__file__).resolve().parents[2]
"""Top of the source tree."""

VERSION = re.compile(r"\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?")
"""Major, minor and patch number, with an optional suffix for a pre-release, as in 1.2.0rc1."""

_LINE = re.compile(r'^version = "[^"]*"$', re.MULTILINE)


class ReleaseError(Exception):
    """Something is not ready for a release; the message names the fix."""


def read_version(root: Path = ROOT) -> str:
    """The version in `pyproject.toml`."""
    version: str = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return version


def write_version(version: str, root: Path = ROOT) -> None:
    """Writes the version to `pyproject.toml`. Raises ReleaseError when it is not a valid version."""
    if not VERSION.fullmatch(version):
        raise ReleaseError(f"'{version}' is not a version; write it as 1.2.0 or 1.2.0rc1")
    path = root / "pyproject.toml"
    text, changed = _LINE.subn(f'version = "{version}"', path.read_text(encoding="utf-8"), count=1)
    if not changed:
        raise ReleaseError(f"{path} has no line 'version = \"...\"' under [project]")
    path.write_text(text, encoding="utf-8")
