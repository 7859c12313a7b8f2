"""The MkDocs hook: adds the generated reference pages to the site."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from sponge_docs.pages import PAGES

__all__ = ["on_files"]


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Called by MkDocs once it has found the hand-written files."""
    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    return files
