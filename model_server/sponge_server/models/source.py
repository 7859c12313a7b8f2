"""Model sources by URL: finds the loader and calls it. A new kind of source is one module and one line in `LOADERS`.

Parsing needs no torch, so the server and the command can refuse an invalid source at once. Loading imports the kind's
module.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from sponge_server.workers.interface import ModelError

if TYPE_CHECKING:
    from sponge_server.models.loaded import LoadedModel

__all__ = ["DTYPES", "LOADERS", "REMOTE", "Source", "load", "load_kind", "parse", "with_precision"]

DTYPES = ("fp32", "bf16", "auto")
"""Values of the option `dtype` of any source; see `precision.in_dtype`."""

REMOTE = ("https", "http", "s3", "gs")
"""Schemes of files elsewhere. Their options follow a `#`, because a query may be part of the address."""

LOADERS = {
    "torchvision": "sponge_server.models.torchvision_zoo",
    "file": "sponge_server.models.exported",
    "digits": "sponge_server.models.digits",
    "python": "sponge_server.models.factory",
    "sklearn": "sponge_server.models.sklearn_models",
    "hf": "sponge_server.models.hf",
    **dict.fromkeys(REMOTE, "sponge_server.models.fetching"),
}
"""By URL scheme: the module with `load(source) -> LoadedModel`."""

_DTYPE, _ACCEPT = "dtype", "accept_accuracy"
"""Options of every kind of source; they are not passed to the loaders."""

_EXAMPLES = "torchvision://resnet18?weights=none, file:///models/m.pt2, hf:///models/bert, digits://, python://package.module:factory"


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed model source: `scheme://target?options`."""

    url: str
    scheme: str
    target: str
    options: dict[str, str]

    def only(self, *names: str) -> None:
        """Raises ModelError when the source has an option besides `names`."""
        unknown = sorted(self.options.keys() - set(names))
        if unknown:
            allowed = ", ".join(names) or "none"
            raise ModelError(
                f"model source '{self.url}': unknown option '{unknown[0]}'; {self.scheme}:// takes {allowed}"
            )


def parse(url: str) -> Source:
    """Parses a source. Raises ModelError, with examples, when the scheme or an option is unknown."""
    parts = urlsplit(url)
    if parts.scheme not in LOADERS:
        raise ModelError(f"model source '{url}' is of an unknown kind; write for example {_EXAMPLES}")
    target = unquote(parts.netloc + parts.path)
    options = parts.fragment if parts.scheme in REMOTE else parts.query
    source = Source(url, parts.scheme, target, dict(parse_qsl(options, keep_blank_values=True)))
    for option, allowed in ((_DTYPE, DTYPES), (_ACCEPT, ("true", "false"))):
        if source.options.get(option, allowed[0]) not in allowed:
            raise ModelError(f"model source '{url}': {option} must be one of {', '.join(allowed)}")
    return source


def with_precision(url: str, dtype: str, accept_accuracy: bool) -> str:
    """Adds these options to the source, unless it sets them itself."""
    wanted = {_DTYPE: dtype, _ACCEPT: str(accept_accuracy).lower()}
    default = {_DTYPE: DTYPES[0], _ACCEPT: "false"}
    source = parse(url)
    said, first = source.options, "#" if source.scheme in REMOTE else "?"
    more = [f"{name}={value}" for name, value in wanted.items() if name not in said and value != default[name]]
    return url + ("&" if said else first) + "&".join(more) if more else url


def load_kind(source: Source) -> LoadedModel:
    """Loads a source by the loader of its kind. Raises ModelError."""
    loaded: LoadedModel = importlib.import_module(LOADERS[source.scheme]).load(source)
    return loaded


def load(url: str) -> LoadedModel:
    """Loads a model on one thread. Raises ModelError with the cause."""
    source = parse(url)
    own = {name: value for name, value in source.options.items() if name not in (_DTYPE, _ACCEPT)}
    loaded = load_kind(replace(source, options=own))
    dtype = source.options.get(_DTYPE, DTYPES[0])
    if dtype == DTYPES[0]:
        return loaded
    from sponge_server.models.precision import in_dtype

    return in_dtype(loaded, dtype, source.options.get(_ACCEPT) == "true")
