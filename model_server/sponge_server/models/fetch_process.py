"""The process of a download, `python -m sponge_server.models.fetch_process TASK`: prints its progress as JSON lines."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from sponge_core.errors import SpongeError, needs_extra
from sponge_server.models.download import fetch
from sponge_server.workers.interface import ModelError
from sponge_system.cache_folder import models_folder

__all__ = ["main"]

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
"""Files of a model of the hub: no pickles, no weights of other libraries."""


def main(task: dict[str, Any]) -> None:
    """Fetches what the task names, and prints the path."""
    try:
        if "hub" in task:
            path = _from_hub(task["hub"], task["revision"])
        else:
            path = str(fetch(task["fetch"], _cache(), task["sha256"], _progress))
    except SpongeError as error:
        _say(failed=str(error))
    else:
        _say(path=path)


def _cache() -> Path:
    """The user's cache; where that is read-only, as in an image, a folder for temporary files."""
    usual = models_folder()
    there = next(folder for folder in (usual, *usual.parents) if folder.exists())
    return (usual if os.access(there, os.W_OK) else Path(tempfile.gettempdir()) / "sponge") / "fetched"


def _from_hub(name: str, revision: str | None) -> str:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        raise ModelError(needs_extra("hf://", "huggingface_hub", "hf")) from None
    try:
        try:
            return str(snapshot_download(name, revision=revision, allow_patterns=_FILES, local_files_only=True))
        except LocalEntryNotFoundError:
            return str(snapshot_download(name, revision=revision, allow_patterns=_FILES))
    except Exception as error:  # noqa: BLE001 - the hub's client raises anything
        text = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ModelError(
            f"hf://{name} is neither in the hub's cache (HF_HOME) nor can it be fetched ({text}): check the name, the "
            "network, and HF_TOKEN for a private model, or give a folder, hf:///absolute/path"
        ) from None


def _progress(name: str, done: int, total: int) -> None:
    _say(name=name, done=done, total=total)


def _say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
