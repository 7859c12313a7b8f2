"""Downloads: interrupted, damaged, changed, refused, without room, and from the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from range_server import Files, serving

from sponge_server.models import download
from sponge_server.models.download import fetch
from sponge_server.workers.interface import ModelError

CONTENT = os.urandom(100_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PIECE_BYTES", 30_000)
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.0)


@pytest.fixture
def files() -> Iterator[Files]:
    with serving({"/models/m.pt2": CONTENT}) as running:
        yield running


def get(files: Files, cache: Path, sha256: str | None = None, query: str = "") -> Path:
    return fetch(f"{files.url}/models/m.pt2{query}", cache, sha256, lambda *_: None)


def test_a_file_comes_in_pieces_with_progress_and_its_sidecar(files: Files, tmp_path: Path) -> None:
    files.content["/models/m.pt2.json"] = b"{}"
    seen: list[tuple[str, int, int]] = []
    path = fetch(f"{files.url}/models/m.pt2", tmp_path, DIGEST.upper(), lambda *step: seen.append(step))
    assert path.read_bytes() == CONTENT
    assert path.with_name("m.pt2.json").read_bytes() == b"{}"
    assert seen[:4] == [("m.pt2", min(at, 100_000), 100_000) for at in (30_000, 60_000, 90_000, 120_000)]


def test_the_weights_of_an_onnx_file_come_with_it(files: Files, tmp_path: Path) -> None:
    files.content |= {"/models/m.onnx": b"graph", "/models/m.onnx.data": b"weights"}
    path = fetch(f"{files.url}/models/m.onnx?signature=m.onnx", tmp_path, None, lambda *_: None)
    assert (path.read_bytes(), path.with_name("m.onnx.data").read_bytes()) == (b"graph", b"weights")


def test_an_interrupted_piece_is_asked_for_again(files: Files, tmp_path: Path) -> None:
    files.cut = 2
    assert get(files, tmp_path).read_bytes() == CONTENT


def test_a_download_goes_on_where_it_ended(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(name: str, done: int, total: int) -> None:
        if done == 60_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(f"{files.url}/models/m.pt2", tmp_path, None, stopped)
    files.asked.clear()
    assert get(files, tmp_path, DIGEST).read_bytes() == CONTENT
    assert [wanted for path, wanted in files.asked if path.endswith("pt2")] == [
        "bytes=60000-89999",
        "bytes=90000-99999",
    ]


def test_a_part_of_another_version_is_thrown_away(files: Files, tmp_path: Path) -> None:
    files.cut = 100
    with pytest.raises(ModelError, match=r"models/m.pt2 cannot be reached .*check the address and the network"):
        get(files, tmp_path)
    files.cut, files.etag, files.content["/models/m.pt2"] = 0, "two", CONTENT[::-1]
    assert get(files, tmp_path).read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_is_served_too(files: Files, tmp_path: Path) -> None:
    files.ranges = False
    assert get(files, tmp_path, DIGEST).read_bytes() == CONTENT


def test_a_wrong_digest_is_told_and_nothing_is_kept(files: Files, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"has the sha256 {DIGEST}, not 0{{64}}: it was changed or damaged"):
        get(files, tmp_path, "0" * 64)
    assert not list(tmp_path.rglob("m.pt2*"))
    assert get(files, tmp_path, DIGEST).read_bytes() == CONTENT


def test_what_is_cached_is_not_fetched_again_until_it_changes(files: Files, tmp_path: Path) -> None:
    first = get(files, tmp_path)
    files.asked.clear()
    assert get(files, tmp_path) == first
    assert files.asked == []
    files.etag, files.content["/models/m.pt2"] = "two", b"new" * 10
    assert get(files, tmp_path).read_bytes() == b"new" * 10


def test_the_cache_serves_while_its_source_is_away(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    get(files, tmp_path)
    files.status = 503
    assert get(files, tmp_path).read_bytes() == CONTENT
    assert "the copy of 20" in capsys.readouterr().err
    assert get(files, tmp_path, DIGEST).read_bytes() == CONTENT  # not even asked for


def test_a_full_disk_is_told_before_the_download(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100_000, 99_000, 1000))
    with pytest.raises(ModelError, match=r"no room for .*m.pt2: it needs 1 MiB and finds 0 MiB in .*XDG_CACHE_HOME"):
        get(files, tmp_path)
    assert files.asked == []


def test_a_disk_that_fills_up_meanwhile_is_told(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any, __: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_append", full)
    with pytest.raises(ModelError, match=r"no room for .* mount a larger volume there"):
        get(files, tmp_path)


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "there is nothing at .*: check the address"), (403, "was denied .*an address that is signed"), (500, "500")],
)
def test_refusals_are_told_without_the_signature(files: Files, tmp_path: Path, status: int, message: str) -> None:
    files.status = status
    with pytest.raises(ModelError, match=message) as told:
        get(files, tmp_path, query="?X-Signature=secret")
    assert "secret" not in str(told.value)


def test_a_host_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"http://127.0.0.1:9/m cannot be reached .*check the address and the network"):
        fetch("http://127.0.0.1:9/m", tmp_path, None, lambda *_: None)


def test_a_cache_that_cannot_be_written_is_told(files: Files, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(ModelError, match=r"cannot be kept in .* set XDG_CACHE_HOME"):
        get(files, tmp_path / "cache")


def test_a_folder_comes_with_every_file_and_one_digest(tmp_path: Path) -> None:
    storage = fsspec.filesystem("memory")
    storage.pipe({"/bucket/bert/config.json": b"{}", "/bucket/bert/1_Pooling/config.json": b"[]"})
    try:
        path = fetch("memory://bucket/bert/", tmp_path, None, lambda *_: None)
        assert (path.name, (path / "config.json").read_bytes()) == ("bert", b"{}")
        assert (path / "1_Pooling" / "config.json").read_bytes() == b"[]"
        lines = b"".join(
            f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode()
            for name, content in (("1_Pooling/config.json", b"[]"), ("config.json", b"{}"))
        )
        digest = hashlib.sha256(lines).hexdigest()
        assert fetch("memory://bucket/bert/", tmp_path, digest, lambda *_: None) == path
    finally:
        storage.rm("/bucket", recursive=True)


def test_a_storage_without_its_package_names_the_extra(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gs:// needs gcsfs: pip install 'sponge-serving\[gcs\]'"):
        fetch("gs://bucket/m", tmp_path, None, lambda *_: None)
