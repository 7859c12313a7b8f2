"""Container images without a registry, as docker-archive files that are the same byte for byte every time.

Two images: a static busybox, which also serves as the pause container, and an almost empty one in which pods run the
Python environment of this machine through mounts (see `host_python`). containerd or kind imports the file.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = [
    "BUSYBOX_IMAGE",
    "PAUSE_IMAGE",
    "PYTHON_IMAGE",
    "Entry",
    "Image",
    "busybox_image",
    "is_static_elf",
    "python_image",
    "write_archive",
]

BUSYBOX_IMAGE = "sponge.local/busybox:host"
PAUSE_IMAGE = "sponge.local/pause:host"
PYTHON_IMAGE = "sponge.local/python:host"

_ACCOUNTS = (
    "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nnonroot:x:65532:65532::/tmp:/bin/false\n"
)
_GROUPS = "root:x:0:\nnogroup:x:65534:\nnonroot:x:65532:\n"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder (neither content nor link), a file or a symbolic link; the path in the image has no leading slash."""

    path: str
    content: bytes | None = None
    link: str | None = None
    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class Image:
    """One image of one layer under one or more tags."""

    tags: tuple[str, ...]
    entries: tuple[Entry, ...]
    entrypoint: tuple[str, ...]


def busybox_image(busybox: Path, applets: Sequence[str]) -> Image:
    """A shell and the usual commands, from a statically linked busybox. It is also the pause container: it sleeps."""
    links = tuple(Entry(f"bin/{applet}", link="busybox") for applet in applets if applet != "busybox")
    entries = (*_basics(), Entry("bin/busybox", busybox.read_bytes()), *links)
    return Image((BUSYBOX_IMAGE, PAUSE_IMAGE), entries, ("/bin/busybox", "sleep", "2147483647"))


def python_image(mount_points: Iterable[str]) -> Image:
    """Only the folders to mount over, and the links that a merged /usr needs."""
    links = (Entry("bin", link="usr/bin"), Entry("sbin", link="usr/sbin"))
    entries = (*_basics(), *(Entry(point.strip("/")) for point in mount_points), *links)
    return Image((PYTHON_IMAGE,), entries, ())


def _basics() -> tuple[Entry, ...]:
    return (
        Entry("etc/passwd", _ACCOUNTS.encode(), mode=0o644),
        Entry("etc/group", _GROUPS.encode(), mode=0o644),
        Entry("tmp", mode=0o1777),
    )


def is_static_elf(program: Path) -> bool:
    """Whether a program runs without a loader, as it must in an image without libraries."""
    head = program.read_bytes()[:4096]
    return head.startswith(b"\x7fELF") and b"/ld-" not in head


def write_archive(target: Path, images: Iterable[Image]) -> None:
    """Writes the images as one docker-archive; replaces an existing file."""
    manifest = []
    with tarfile.open(target, "w") as archive:
        for image in images:
            layer = _layer(image.entries)
            digest = hashlib.sha256(layer).hexdigest()
            config = json.dumps(
                {
                    "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
                    "os": "linux",
                    "config": {
                        "Entrypoint": list(image.entrypoint),
                        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                    },
                    "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
                }
            ).encode()
            config_name = f"{hashlib.sha256(config).hexdigest()}.json"
            layer_name = f"{digest}/layer.tar"
            _add(archive, layer_name, layer)
            _add(archive, config_name, config)
            manifest.append({"Config": config_name, "RepoTags": list(image.tags), "Layers": [layer_name]})
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _layer(entries: Iterable[Entry]) -> bytes:
    """The entries with every parent folder, parents first, all owned by root and dated 1970."""
    by_path = {entry.path: entry for entry in entries}
    for path in list(by_path):
        for parent in PurePosixPath(path).parents:
            by_path.setdefault(str(parent), Entry(str(parent)))
    by_path.pop(".", None)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for path, entry in sorted(by_path.items()):
            info = tarfile.TarInfo(path)
            info.mode = entry.mode
            if entry.link is not None:
                info.type, info.linkname = tarfile.SYMTYPE, entry.link
                layer.addfile(info)
            elif entry.content is not None:
                info.size = len(entry.content)
                layer.addfile(info, io.BytesIO(entry.content))
            else:
                info.type = tarfile.DIRTYPE
                layer.addfile(info)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    archive.addfile(info, io.BytesIO(content))
