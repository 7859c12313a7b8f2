"""Files that runtimes make of a model, kept in the user's cache: an optimised or converted model is made once.

A folder holds what was made of one set of inputs, named by its digest; equal inputs find it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from sponge_server.workers.interface import ModelError
from sponge_system.cache_folder import cache_root

__all__ = ["digest", "fingerprint", "kept"]

_MARK = "complete"


def fingerprint(paths: Iterable[Path]) -> list[list[object]]:
    """Name, size and time of change of each file: what changes with the file's content."""
    return [
        [str(path.resolve()), stat.st_size, stat.st_mtime_ns] for path, stat in ((path, path.stat()) for path in paths)
    ]


def digest(*parts: object) -> str:
    """A short digest of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def kept(key: str, make: Callable[[Path], None]) -> Path:
    """The folder of `key`, made if missing: `make` writes into an empty folder, which then gets its name at once.

    Raises ModelError when no folder can be written.
    """
    parents = [cache_root() / "runtimes", Path(tempfile.gettempdir()) / f"sponge-runtimes-{os.getuid()}"]
    for parent in parents:
        if (parent / key / _MARK).is_file() and parent.stat().st_uid == os.getuid():
            return parent / key
    refused: OSError | None = None
    for parent in parents:
        try:
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if parent.stat().st_uid != os.getuid():
                raise PermissionError(f"{parent} belongs to another user")
            half = Path(tempfile.mkdtemp(dir=parent))
        except OSError as error:
            refused = error
            continue
        try:
            make(half)
            _write_back(half)
            (half / _MARK).touch()
            with contextlib.suppress(OSError):  # another process was faster: its folder is as good
                half.replace(parent / key)
            return parent / key
        except OSError as error:
            raise ModelError(
                f"the model cannot be prepared in {parent}: {error.strerror or error}; give the folder more room, or "
                "set XDG_CACHE_HOME to another one"
            ) from None
        finally:
            shutil.rmtree(half, ignore_errors=True)
    raise ModelError(
        f"the runtime needs a folder for its files, and neither {parents[0]} nor {parents[1]} can be written "
        f"({refused}): mount a volume at one of them, or set XDG_CACHE_HOME"
    )


def _write_back(folder: Path) -> None:
    """Writes the files to the disk. Until then, the pages that a process maps of them count as its own memory."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
