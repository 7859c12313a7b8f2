"""Writes the files that the proxy reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sponge_core.errors import SpongeError
from sponge_front.envoy_config import bootstrap, endpoints, endpoints_file
from sponge_front.pods import Pod
from sponge_front.settings import EnvoySettings

__all__ = ["prepare", "write_endpoints"]


def write_endpoints(directory: Path, pods: Iterable[Pod]) -> None:
    """Tells the proxy which pods there are. Raises SpongeError."""
    pods = list(pods)
    for protocol in ("http", "grpc"):
        _write(endpoints_file(directory, protocol), endpoints(protocol, pods))


def prepare(settings: EnvoySettings) -> Path:
    """Writes what the proxy needs to start, and returns the path of its bootstrap. Raises SpongeError.

    Addresses that an earlier picker has written stay: the proxy may start before the picker.
    """
    directory = settings.directory
    if not all(endpoints_file(directory, protocol).exists() for protocol in ("http", "grpc")):
        write_endpoints(directory, ())
    path = directory / "envoy.json"
    _write(path, bootstrap(settings))
    return path


def _write(path: Path, document: Mapping[str, Any]) -> None:
    """In one step, because the proxy reads a file as soon as it appears."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(json.dumps(document, indent=1))
        new.replace(path)
    except OSError as error:
        raise SpongeError(f"cannot write {path}: {error.strerror}; choose another --directory") from None
