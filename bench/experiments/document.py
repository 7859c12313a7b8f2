"""Fills docs/research/experiments.md with tables and pictures.

The prose of the page is written by hand. The text between a pair of marks is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sponge_core.errors import SpongeError

__all__ = ["filled"]

_PART = re.compile(r"<!-- (?P<name>[a-z0-9-]+) -->\n.*?<!-- / -->", re.DOTALL)


def filled(text: str, parts: Mapping[str, str]) -> str:
    """The text with what is between `<!-- NAME -->` and `<!-- / -->` replaced, where there is a part of that name.

    Raises:
        SpongeError: the text has no place for a part.
    """
    places = {found["name"] for found in _PART.finditer(text)}
    missing = sorted(set(parts) - places)
    if missing:
        raise SpongeError(f"no place for {', '.join(missing)}: add the lines '<!-- {missing[0]} -->' and '<!-- / -->'")

    def replaced(found: re.Match[str]) -> str:
        name = found["name"]
        return f"<!-- {name} -->\n{parts[name]}\n<!-- / -->" if name in parts else found[0]

    return _PART.sub(replaced, text)
