"""Renders a report in Markdown as one self-contained page of HTML."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["as_page"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: .6rem 0 1.4rem; font-size: 13px; display: block; overflow-x: auto }
td, th { padding: .15rem .6rem; white-space: nowrap } th { border-bottom: 1px solid #9aa5b1; font-weight: 600 }
tr:has(td:first-child strong) td { color: #0b7a75; font-weight: 600 } svg { width: 100%; height: auto }
code { font-size: 13px } h2 { margin-top: 2.4rem }
"""
_PICTURE = re.compile(r'<img src="(?P<path>[^"]+\.svg)"[^>]*>')


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
