"""Reads a partial pod template from a file; `merge` applies it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sponge_core.errors import SpongeError

__all__ = ["TemplateError", "read_template"]


class TemplateError(SpongeError):
    """A file that holds no partial pod template."""


def read_template(path: Path, option: str) -> dict[str, Any]:
    """Reads a YAML file with `metadata` or `spec`, or both, of a pod template.

    Args:
        option: the option that named the file, for the error message.

    Raises:
        TemplateError: the file cannot be read, or holds something else.
    """
    try:
        template = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TemplateError(f"{option} {path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise TemplateError(f"{option} {path}: not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(template, dict) or not set(template) <= {"metadata", "spec"}:
        raise TemplateError(f"{option} {path}: write a partial pod template, with metadata and spec at the top")
    return template
