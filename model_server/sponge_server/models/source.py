"""Finds the loader of a model source and calls it. A new kind of source is one module and one line in `LOADERS`.

Parsing needs no torch, so the HTTP process and the command can refuse a bad source at once; loading imports the kind's
own module when it is asked for.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from sponge_server.lanes.interface import ModelError

if TYPE_CHECKING:
    from sponge_server.models.loaded import LoadedModel

__all__ = ["LOADERS", "Source", "load", "parse"]

LOADERS = {
    "torchvision": "sponge_server.models.torchvision_zoo",
    "file": "sponge_server.models.exported",
    "digits": "sponge_server.models.digits",
    "python": "sponge_server.models.factory",
}
"""URL scheme -> module with `load(source) -> LoadedModel`."""

_EXAMPLES = "torchvision://resnet18?weights=none, file:///models/m.pt2, digits://, python://package.module:factory"


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed model source: `scheme://target?options`."""

    url: str
    scheme: str
    target: str
    options: dict[str, str]

    def only(self, *names: str) -> None:
        """Raises ModelError when the source has an option other than these."""
        unknown = sorted(self.options.keys() - set(names))
        if unknown:
            allowed = ", ".join(names) or "none"
            raise ModelError(
                f"model source '{self.url}': unknown option '{unknown[0]}'; {self.scheme}:// takes {allowed}"
            )


def parse(url: str) -> Source:
    """Splits a source. Raises ModelError, with examples, when the scheme is not known."""
    parts = urlsplit(url)
    if parts.scheme not in LOADERS:
        raise ModelError(f"model source '{url}' is of no known kind; for example: {_EXAMPLES}")
    target = unquote(parts.netloc + parts.path)
    return Source(url, parts.scheme, target, dict(parse_qsl(parts.query, keep_blank_values=True)))


def load(url: str) -> LoadedModel:
    """Loads a model on one thread. Raises ModelError with the cause."""
    source = parse(url)
    module = importlib.import_module(LOADERS[source.scheme])
    loaded: LoadedModel = module.load(source)
    return loaded
