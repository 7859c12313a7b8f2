"""A download into a cache folder: resumable, with digests, through fsspec.

Each address has a folder, with the file or files, and one description for all of them (`fetched.json`): it is written
last and marks success. What is incomplete ends in `.part`, beside a note of the version that it is a part of.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from sponge_core.errors import needs_extra
from sponge_server.workers.interface import ModelError

__all__ = ["COMPANIONS", "Progress", "fetch"]

Progress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes that are there, and all of its bytes."""

PIECE_BYTES = 8 << 20
"""Bytes of one request: what an interruption can cost."""

TRIES, FIRST_WAIT_S = 5, 0.5
"""An interrupted piece is asked for again, each time after twice the wait."""

COMPANIONS: dict[str, Callable[[str], tuple[str, ...]]] = {
    ".xml": lambda name: (name + ".json", name.removesuffix(".xml") + ".bin"),
    ".onnx": lambda name: (name + ".json", name + ".data"),
    "": lambda name: (name + ".json",),
}
"""By suffix: files beside a model that belong to it, as far as there are any. For every other suffix, the last."""

_NEEDS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs")}
"""By scheme: the package and the extra that brings it."""

_DESCRIPTION, _LOCK = "fetched.json", ".lock"


@dataclass(frozen=True, slots=True)
class _Remote:
    """A file elsewhere. `version`: changes with its content, as far as the storage tells."""

    path: str
    name: str
    size: int
    version: str


def fetch(url: str, cache: Path, sha256: str | None, progress: Progress) -> Path:
    """Path of the file or folder at `url` in the cache, downloaded if it is not there or has changed.

    A cached file is used without asking when its digest is the wanted one, and when its storage cannot be reached.

    Args:
        sha256: hexadecimal digest that the file must have; of a folder, see `_digest_of`. None: not checked.

    Raises:
        ModelError: it cannot be fetched; says why, and what to do.
    """
    target = cache / hashlib.sha256(url.encode()).hexdigest()[:16]
    try:
        target.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            return _fetch(url, target, sha256, progress)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ModelError(_no_room(url, target, None)) from None
        raise ModelError(
            f"{_shown(url)} cannot be kept in '{cache}' ({error.strerror or error}): set XDG_CACHE_HOME to a folder "
            "that can be written, such as an emptyDir or a volume of the node"
        ) from None


def _fetch(url: str, target: Path, sha256: str | None, progress: Progress) -> Path:
    known = _described(target)
    if sha256 is not None and known is not None and known["sha256"] == sha256.lower():
        return target / str(known["name"])
    try:
        system, files, folder = _listed(url)
    except ModelError as error:
        if known is None or sha256 is not None:
            raise
        print(f"{error}; the copy of {known['at']} is used", file=sys.stderr)
        return target / str(known["name"])
    versions = {file.name: file.version for file in files}
    if sha256 is None and known is not None and known["versions"] == versions:
        return target / str(known["name"])
    (target / _DESCRIPTION).unlink(missing_ok=True)
    name = folder or files[0].name
    base = target / folder if folder else target
    base.mkdir(exist_ok=True)
    missing = sum(file.size - _there(base / file.name) for file in files)
    if missing > shutil.disk_usage(target).free:
        raise ModelError(_no_room(url, target, missing))
    digests = {file.name: _download(system, url, file, base, progress) for file in files}
    digest = _digest_of(digests) if folder else digests[name]
    if sha256 is not None and digest != sha256.lower():
        for file in files:
            (base / file.name).unlink()
        raise ModelError(
            f"{_shown(url)} has the sha256 {digest}, not {sha256}: it was changed or damaged; correct the digest if "
            "the change is meant"
        )
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    _write(target / _DESCRIPTION, {"url": _shown(url), "name": name, "sha256": digest, "versions": versions, "at": at})
    return target / name


def _digest_of(digests: dict[str, str]) -> str:
    """The digest of a folder: that of the lines `DIGEST  NAME`, sorted by name, as sha256sum writes them."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _listed(url: str) -> tuple[Any, list[_Remote], str | None]:
    """The file system, the files at the address, and the folder's name if it is one. Raises ModelError."""
    try:
        import fsspec
    except ImportError:
        raise ModelError(needs_extra(f"{urlsplit(url).scheme}://", "fsspec", "fetch")) from None
    scheme = urlsplit(url).scheme
    with _explained(url):
        try:
            system, path = fsspec.url_to_fs(url)
        except ImportError:
            raise ModelError(needs_extra(f"{scheme}://", *_NEEDS.get(scheme, ("aiohttp", "fetch")))) from None
        if scheme not in ("http", "https") and (url.endswith("/") or system.isdir(path)):
            root = path.rstrip("/")
            found = system.find(root, maxdepth=2, detail=True)
            files = [_remote(system, name, name.removeprefix(root).lstrip("/"), told) for name, told in found.items()]
            if not files:
                raise FileNotFoundError(url)
            return system, files, PurePosixPath(urlsplit(url).path.rstrip("/")).name or "model"
        name = PurePosixPath(urlsplit(url).path).name
        if not name:
            raise ModelError(f"{_shown(url)} names no file: give the address of the model's file")
        files = [_remote(system, path, name, system.info(path))]
        at = path.partition("?")[0].rindex(name)
        for beside in COMPANIONS.get(PurePosixPath(name).suffix, COMPANIONS[""])(name):
            place = path[:at] + beside + path[at + len(name) :]
            if (told := _info_if_any(system, place)) is not None:
                files.append(_remote(system, place, beside, told))
        return system, files, None


def _info_if_any(system: Any, path: str) -> dict[str, Any] | None:
    """What is known of a file; None if there is none. Some storages deny access to what is not there."""
    try:
        told: dict[str, Any] = system.info(path)
    except (FileNotFoundError, PermissionError) as error:
        if isinstance(cause := _cause(error), FileNotFoundError | PermissionError) or _status(cause) in (401, 403):
            return None
        raise
    return told


def _remote(system: Any, path: str, name: str, told: dict[str, Any]) -> _Remote:
    marks = (told.get("ETag") or told.get("etag"), told.get("md5Hash"), told.get("LastModified"), told.get("mtime"))
    size = told.get("size")
    if size is None:
        size = len(system.cat_file(path))
    return _Remote(path, name, int(size), json.dumps([size, *(str(mark) for mark in marks if mark is not None)]))


def _download(system: Any, url: str, file: _Remote, base: Path, progress: Progress) -> str:
    """Downloads one file, goes on with what is there of the same version, and returns its digest."""
    whole = base / file.name
    part, note = whole.with_name(whole.name + ".part"), whole.with_name(whole.name + ".part.json")
    whole.parent.mkdir(parents=True, exist_ok=True)
    if not (part.is_file() and _read(note) == {"version": file.version}):
        part.write_bytes(b"")
        _write(note, {"version": file.version})
    done = part.stat().st_size
    with part.open("ab") as written:
        while done < file.size:
            end = min(done + PIECE_BYTES, file.size)
            piece = _piece(system, url, file, done, end)
            if len(piece) != end - done:  # the server ignores ranges and sends everything
                piece = piece[done:end] if len(piece) == file.size else _short(url, file, done + len(piece))
            _append(written, piece)
            done = end
            progress(file.name, done, file.size)
    digest = _sha256(part)
    part.replace(whole)
    note.unlink()
    return digest


def _append(written: Any, piece: bytes) -> None:
    written.write(piece)
    written.flush()


def _piece(system: Any, url: str, file: _Remote, start: int, end: int) -> bytes:
    """Bytes of a file, asked for again after an interruption. Raises ModelError."""
    for attempt in range(TRIES):
        try:
            found: bytes = system.cat_file(file.path, start=start, end=end)
            return found
        except (FileNotFoundError, PermissionError, ModelError):
            with _explained(url):
                raise
        except Exception:
            if attempt == TRIES - 1:
                with _explained(url):
                    raise
            time.sleep(FIRST_WAIT_S * 2**attempt)
    raise AssertionError


def _short(url: str, file: _Remote, got: int) -> bytes:
    raise ModelError(
        f"{_shown(url)} ended after {got} of {file.size} bytes: start again to go on from there; if it happens again, "
        "the file is damaged at its source"
    )


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turns what a storage's client raises into a ModelError that says what to do."""
    shown = _shown(url)
    try:
        yield
    except ModelError:
        raise
    except Exception as raised:  # noqa: BLE001 - as the docstring says
        error = _cause(raised)
        if isinstance(error, FileNotFoundError):
            raise ModelError(f"there is nothing at {shown}: check the address") from None
        denied = isinstance(error, PermissionError) or _status(error) in (401, 403)
        said = _line(error).replace(url, shown).replace(urlsplit(url).query or url, "...")
        if denied or "credentials" in str(error).lower():
            raise ModelError(f"access to {shown} was denied ({said}): {_credentials(url)}") from None
        raise ModelError(f"{shown} cannot be reached ({said}): check the address and the network") from None


def _cause(error: BaseException) -> BaseException:
    """The reason for an error: for HTTP, every failure to ask for a file is raised as a missing file."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None and _status(cause) != 404:
        return _cause(cause)
    return error


def _status(error: BaseException) -> int | None:
    """The status of an HTTP answer."""
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _credentials(url: str) -> str:
    return {
        "s3": "give the pod an IAM role (service account), or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        "gs": "give the pod a workload identity, or GOOGLE_APPLICATION_CREDENTIALS",
    }.get(urlsplit(url).scheme, "give an address that is signed, or a storage such as s3:// with credentials")


def _no_room(url: str, target: Path, missing: int | None) -> str:
    free = shutil.disk_usage(target).free >> 20
    needs = "" if missing is None else f" needs {-(-missing // (1 << 20))} MiB and"
    return (
        f"no room for {_shown(url)}: it{needs} finds {free} MiB in '{target.parent}'; mount a larger volume there, or "
        "set XDG_CACHE_HOME to one"
    )


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Context in which no other process of this node fetches into the folder."""
    with (target / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _described(target: Path) -> dict[str, Any] | None:
    found = _read(target / _DESCRIPTION)
    return found if found is not None and (target / found["name"]).exists() else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found


def _write(path: Path, document: dict[str, Any]) -> None:
    half = path.with_name(path.name + f".{os.getpid()}")
    half.write_text(json.dumps(document), encoding="utf-8")
    half.replace(path)


def _there(whole: Path) -> int:
    part = whole.with_name(whole.name + ".part")
    return part.stat().st_size if part.is_file() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shown(url: str) -> str:
    """The address without its query, which may be a signature, and without a password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
