"""Models from elsewhere: `https://`, `s3://`, `gs://` or the hub of Hugging Face, into a cache on this node.

A download goes on where it was interrupted, is checked against the digest that its source names, and reports its
progress. It runs in a process of its own, because its libraries start threads, which a fork server must not have.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sponge_server.models.source import Source, load_kind, parse
from sponge_server.workers.interface import ModelError

if TYPE_CHECKING:
    from sponge_server.models.loaded import LoadedModel

__all__ = ["hub_folder", "load"]


def load(source: Source) -> LoadedModel:
    """Fetches the source and loads what it is, by its content. Raises ModelError.

    Its options are those of the kind of model, and `sha256`.
    """
    path = Path(_apart({"fetch": source.url.partition("#")[0], "sha256": source.options.get("sha256")}))
    options = {name: value for name, value in source.options.items() if name != "sha256"}
    if path.is_dir():
        from sponge_server.models.repository import looks_like_one

        scheme = "repository" if looks_like_one(path) else "hf"
        if scheme == "hf" and not (path / "config.json").is_file():
            raise ModelError(
                f"'{source.url}' is a folder without config.json, so none of Hugging Face, and no model repository, "
                "which has folders NAME/1: name one file"
            )
    else:
        scheme = "sklearn" if path.suffix == ".skops" else "file"
    return load_kind(replace(parse(f"{scheme}://{quote(str(path))}"), url=source.url, options=options))


def hub_folder(name: str, revision: str | None) -> Path:
    """The folder of a model of the hub, from the hub's cache if it is there. Raises ModelError."""
    return Path(_apart({"hub": name, "revision": revision}))


def _apart(task: dict[str, Any]) -> str:
    """The path that another process has fetched; what it reports is printed. Raises ModelError."""
    command = [sys.executable, "-m", "sponge_server.models.fetch_process", json.dumps(task)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last: dict[str, Any] = {}
        said = time.monotonic()
        for line in process.stdout:
            last = json.loads(line)
            if "done" in last and (time.monotonic() - said >= _SAY_EVERY_S or last["done"] == last["total"]):
                said = time.monotonic()
                print(f"fetching {last['name']}: {last['done'] >> 20} of {last['total'] >> 20} MiB", flush=True)
    if "path" in last:
        return str(last["path"])
    raise ModelError(last.get("failed") or f"the download ended with exit code {process.returncode}: see its output")


_SAY_EVERY_S = 2.0
