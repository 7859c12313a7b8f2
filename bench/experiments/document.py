"""Fills docs/research/experiments.md with tables and pictures, and renders it as one self-contained page of HTML.

The prose of the page is written by hand. The text between a pair of marks is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from sponge_core.errors import SpongeError

__all__ = ["as_page", "filled"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: .6rem 0 1.4rem; font-size: 13px; display: block; overflow-x: auto }
td, th { padding: .15rem .6rem; white-space: nowrap } th { border-bottom: 1px solid #9aa5b1; font-weight: 600 }
tr:has(td:first-child strong) td { color: #0b7a75; font-weight: 600 } svg { width: 100%; height: auto }
code { font-size: 13px } h2 { margin-top: 2.4rem }
"""
_PART = re.compile(r"<!-- (?P<name>[a-z0-9-]+) -->\n.*?<!-- / -->", re.DOTALL)
_PICTURE = re.compile(r'<img src="(?P<path>[^"]+\.svg)"[^>]*>')


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


def as_page(text: str, title: str, folder: Path) -> str:
    """Markdown as a page of HTML with its SVG pictures, which are in `folder` by their paths, inside."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(text)

    def drawn(found: re.Match[str]) -> str:
        drawing = (folder / found["path"]).read_text(encoding="utf-8")
        return _apart(drawing[drawing.index("<svg") :], Path(found["path"]).stem)

    body = _PICTURE.sub(drawn, body)
    return f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>\n{body}\n'


def _apart(drawing: str, name: str) -> str:
    """The drawing with ids of its own: several on one page would take each other's."""
    drawing = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', drawing)
    return re.sub(r'(href="|url\()#', rf"\1#{name}-", drawing)
