"""Small pieces of Markdown that several reference pages share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["code", "front", "table"]


def code(text: str) -> str:
    """The text as inline code. The site's Markdown takes a pipe inside of it as it is, in a table cell, too."""
    return f"`{text}`"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; each cell becomes a single line."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [f"| {' | '.join(' '.join(cell.split()) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def front(title: str, text: str, source: str) -> str:
    """The head of a generated page: its title, what it is for, and the file that it comes from."""
    return f"# {title}\n\n{text}\n\n*This page is generated from {source}.*\n"
