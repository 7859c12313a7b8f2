"""Model sources by URL: finds the loader and calls it. A new kind of source is one module and one line in `LOADERS`.

Parsing needs no torch, so the server and the command can refuse an invalid source at once. Loading imports the kind's
module.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from sponge_server.workers.interface import ModelError

if TYPE_CHECKING:
    from sponge_server.models.loaded import LoadedModel

__all__ = ["DTYPES", "LOADERS", "REMOTE", "RUNTIMES", "Source", "load", "load_kind", "parse", "with_options"]

DTYPES = ("fp32", "bf16", "int8", "auto")
"""Values of the option `dtype` of any source; see `precision.in_dtype`."""

REMOTE = ("https", "http", "s3", "gs")
"""Schemes of files elsewhere. Their options follow a `#`, because a query may be part of the address."""

RUNTIMES = ("torch", "onnx", "openvino")
"""Values of the option `runtime` of any source; see `runtimes.conversion.in_runtime`."""

LOADERS = {
    "torchvision": "sponge_server.models.torchvision_zoo",
    "file": "sponge_server.models.exported",
    "digits": "sponge_server.models.digits",
    "python": "sponge_server.models.factory",
    "sklearn": "sponge_server.models.sklearn_models",
    "hf": "sponge_server.models.hf",
    **dict.fromkeys(REMOTE, "sponge_server.models.fetching"),
    "onnx": "sponge_server.runtimes.conversion",
    "openvino": "sponge_server.runtimes.conversion",
    "repository": "sponge_server.models.repository",
}
"""By URL scheme: the module with `load(source) -> LoadedModel`."""

_BY_SUFFIX = {".onnx": "onnx", ".xml": "openvino"}
"""Kinds of `file:` sources that have a scheme of their own."""

_RUNTIME, _DTYPE, _ACCEPT, _EXAMPLES_FILE = "runtime", "dtype", "accept_accuracy", "examples"
_EVERYWHERE = (_RUNTIME, _DTYPE, _ACCEPT, _EXAMPLES_FILE)
"""Options of every kind of source; they are not passed to the loaders."""

_EXAMPLES = (
    "torchvision://resnet18?weights=none, file:///models/m.pt2, onnx:///models/m.onnx, hf:///models/bert, digits://, "
    "python://package.module:factory"
)


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

    def flag(self, name: str, default: bool = False) -> bool:
        """The value of an option that is true or false. Raises ModelError for others."""
        text = self.options.get(name, str(default).lower())
        if text not in ("true", "false"):
            raise ModelError(f"model source '{self.url}': {name} must be true or false, not '{text}'")
        return text == "true"


def parse(url: str) -> Source:
    """Parses a source. Raises ModelError, with examples, when the scheme or an option is unknown."""
    parts = urlsplit(url)
    if parts.scheme not in LOADERS:
        raise ModelError(f"model source '{url}' is of an unknown kind; write for example {_EXAMPLES}")
    target = unquote(parts.netloc + parts.path)
    options = parts.fragment if parts.scheme in REMOTE else parts.query
    scheme = _BY_SUFFIX.get(PurePath(target).suffix, "file") if parts.scheme == "file" else parts.scheme
    source = Source(url, scheme, target, dict(parse_qsl(options, keep_blank_values=True)))
    for option, allowed in ((_RUNTIME, RUNTIMES), (_DTYPE, DTYPES), (_ACCEPT, ("true", "false"))):
        if source.options.get(option, allowed[0]) not in allowed:
            raise ModelError(f"model source '{url}': {option} must be one of {', '.join(allowed)}")
    return source


def with_options(url: str, runtime: str | None, dtype: str, accept_accuracy: bool) -> str:
    """Adds these options to the source, unless it sets them itself. `runtime`: None is the source's own."""
    wanted = {_RUNTIME: runtime, _DTYPE: dtype, _ACCEPT: str(accept_accuracy).lower()}
    default = {_RUNTIME: None, _DTYPE: DTYPES[0], _ACCEPT: "false"}
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
    own = {name: value for name, value in source.options.items() if name not in _EVERYWHERE}
    loaded = load_kind(replace(source, options=own))
    if _RUNTIME in source.options:
        from sponge_server.models.loaded import with_network
        from sponge_server.runtimes.conversion import in_runtime

        loaded = with_network(loaded, lambda network: in_runtime(network, source.options[_RUNTIME], url))
    dtype = source.options.get(_DTYPE, DTYPES[0])
    if dtype == DTYPES[0]:
        return loaded
    from sponge_server.models.loaded import with_network
    from sponge_server.models.precision import in_dtype
    from sponge_server.runtimes.examples import Examples

    def converted(network: LoadedModel) -> LoadedModel:
        file = source.options.get(_EXAMPLES_FILE)
        examples = None if file is None else Examples(Path(file), network.inputs)
        return in_dtype(network, dtype, source.options.get(_ACCEPT) == "true", examples)

    return with_network(loaded, converted)
