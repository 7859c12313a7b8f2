"""The docker-archive that containerd and kind import: its layout, its digests, its folders."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from sponge_cluster.images import (
    BUSYBOX_IMAGE,
    PAUSE_IMAGE,
    PYTHON_IMAGE,
    busybox_image,
    is_static_elf,
    python_image,
    write_archive,
)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"\x7fELF static")
    path = tmp_path / "images.tar"
    images = [busybox_image(busybox, ["busybox", "sh", "sleep"]), python_image(["/usr", "/home/me/python"])]
    write_archive(path, images)
    return path


def _read(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def _layer(archive: Path, tag: str) -> dict[str, tarfile.TarInfo]:
    (entry,) = [e for e in json.loads(_read(archive, "manifest.json")) if tag in e["RepoTags"]]
    with tarfile.open(fileobj=io.BytesIO(_read(archive, entry["Layers"][0]))) as layer:
        return {member.name: member for member in layer}


def test_everything_is_named_by_its_own_digest(archive: Path) -> None:
    manifest = json.loads(_read(archive, "manifest.json"))
    assert [e["RepoTags"] for e in manifest] == [[BUSYBOX_IMAGE, PAUSE_IMAGE], [PYTHON_IMAGE]]
    for entry in manifest:
        config = _read(archive, entry["Config"])
        assert entry["Config"] == f"{hashlib.sha256(config).hexdigest()}.json"
        (layer,) = entry["Layers"]
        digest = hashlib.sha256(_read(archive, layer)).hexdigest()
        assert json.loads(config)["rootfs"]["diff_ids"] == [f"sha256:{digest}"]


def test_the_same_images_give_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    before = archive.read_bytes()
    images = [
        busybox_image(tmp_path / "busybox", ["busybox", "sh", "sleep"]),
        python_image(["/usr", "/home/me/python"]),
    ]
    write_archive(archive, images)
    assert archive.read_bytes() == before


def test_busybox_answers_to_its_applets(archive: Path) -> None:
    layer = _layer(archive, BUSYBOX_IMAGE)
    assert layer["bin/busybox"].isfile()
    assert layer["bin/busybox"].mode & 0o111
    assert layer["bin/sh"].linkname == "busybox"


def test_the_python_image_is_mount_points_and_accounts(archive: Path) -> None:
    layer = _layer(archive, PYTHON_IMAGE)
    for point in ("usr", "home", "home/me", "home/me/python", "tmp"):
        assert layer[point].isdir()
    # A pod that does not run as root must get through to what is mounted there.
    assert layer["home/me"].mode == 0o755
    assert layer["tmp"].mode == 0o1777
    assert layer["bin"].linkname == "usr/bin"
    assert layer["etc/passwd"].isfile()


def test_parents_come_before_children(archive: Path) -> None:
    names = list(_layer(archive, PYTHON_IMAGE))
    for name in names:
        parent = name.rpartition("/")[0]
        assert not parent or names.index(parent) < names.index(name)


@pytest.mark.parametrize(
    ("content", "static"),
    [(b"\x7fELF....", True), (b"\x7fELF../lib64/ld-linux-x86-64.so.2", False), (b"#!/bin/sh", False)],
)
def test_a_static_program_names_no_loader(tmp_path: Path, content: bytes, static: bool) -> None:
    (tmp_path / "program").write_bytes(content)
    assert is_static_elf(tmp_path / "program") is static
