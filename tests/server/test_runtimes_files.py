"""Files that a runtime cannot load: each message names the fix. And the folder of files that runtimes make."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import onnx_models
import pytest
from onnx import TensorProto

from sponge_server.models.source import load
from sponge_server.runtimes import files
from sponge_server.workers.interface import ModelError

pytestmark = pytest.mark.torch


def damaged(path: Path) -> Path:
    onnx_models.linear(path, 64)
    path.write_bytes(path.read_bytes()[:-900])
    return path


def without_weights(path: Path) -> Path:
    onnx_models.linear(path, weights="w.bin")
    path.with_name("w.bin").unlink()
    return path


def written(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def ir_without_weights(path: Path) -> Path:
    onnx_models.openvino_ir(path).with_suffix(".bin").unlink()
    return path


def ir_with_other_weights(path: Path) -> Path:
    onnx_models.openvino_ir(path).with_suffix(".bin").write_bytes(b"1234")
    return path


def cut_ir(path: Path) -> Path:
    path.write_bytes(onnx_models.openvino_ir(path).read_bytes()[:300])
    return path


BAD_ONNX: list[tuple[Callable[[Path], object], str]] = [
    (lambda p: None, r"no model file '.*m\.onnx'; write onnx:///absolute"),
    (damaged, "is not an ONNX model, or only a part of one: copy or export it again"),
    (lambda p: written(p, "not a model at all\n" * 9), "is not an ONNX model"),
    (lambda p: written(p, ""), "is not an ONNX model"),
    (lambda p: onnx_models.one_node(p, opsets=[onnx_models.opset(99)]), r"opset 99, .*export it with opset_version=\d"),
    (lambda p: onnx_models.one_node(p, "Foo", domain="com.acme"), r"the operator com\.acme:Foo, which ONNX Runtime"),
    (lambda p: onnx_models.one_node(p, "Foo"), r"the operator Foo, which ONNX Runtime does not have"),
    (
        lambda p: onnx_models.one_node(p, "Foo", domain="com.acme", declares=False),
        r"the operator Foo, which ONNX Runtime does not have",
    ),
    (
        lambda p: onnx_models.one_node(p, ir=99),
        r"m\.onnx': Unsupported .* IR version: 99, .*install a newer onnxruntime",
    ),
    (lambda p: onnx_models.one_node(p, reads="z"), r"Node input 'z' is not .*onnx\.checker\.check_model"),
    (without_weights, r"keeps its weights in 'w\.bin', which is missing: put it into the folder"),
    (
        lambda p: onnx_models.one_node(p, shape=(8, 4)),
        r"batches of exactly 8: export it with a dynamic first dimension",
    ),
    (lambda p: onnx_models.one_node(p, "Identity", shape=()), "has no batch dimension"),
    (lambda p: onnx_models.one_node(p, "Identity", kind=TensorProto.STRING), "input x is STRING, which cannot be sent"),
    (lambda p: onnx_models.one_node(p, "Identity", kind=TensorProto.BFLOAT16), "input x is BFLOAT16"),
]


@pytest.mark.parametrize(("make", "message"), BAD_ONNX)
def test_a_bad_onnx_file_says_what_to_do(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=message):
        load(f"onnx://{tmp_path}/m.onnx")


BAD_OPENVINO: list[tuple[str, Callable[[Path], object], str]] = [
    ("m.xml", lambda p: None, r"no model file '.*m\.xml'; write openvino:///absolute"),
    ("m.xml", cut_ir, "is not an OpenVINO model, or only a part of one"),
    ("m.xml", ir_without_weights, r"the weights of '.*m\.xml' are missing: put the file 'm\.bin' into the folder"),
    ("m.xml", ir_with_other_weights, r"m\.bin' does not belong to '.*m\.xml', or is only a part of it"),
    ("m.xml", lambda p: written(p, "<html></html>"), "is not an OpenVINO model, or only a part of one"),
    ("m.onnx", damaged, "is not an ONNX model, or only a part of one"),
    ("m.onnx", lambda p: onnx_models.one_node(p, "Foo", domain="com.acme"), r"com\.acme\.Foo, which OpenVINO does not"),
    ("m.onnx", without_weights, r"keeps its weights in 'w\.bin', which is missing"),
    ("m.onnx", lambda p: onnx_models.one_node(p, shape=(8, 4)), "batches of exactly 8"),
    ("m.bin", lambda p: None, r"reads \.xml and \.onnx files; name 'm\.xml'"),
    ("m.pt2", lambda p: None, r"for a model of torch write file://.*m\.pt2\?runtime=openvino"),
]


@pytest.mark.parametrize(("name", "make", "message"), BAD_OPENVINO)
def test_a_bad_openvino_file_says_what_to_do(
    tmp_path: Path, name: str, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(ModelError, match=message):
        load(f"openvino://{tmp_path}/{name}")


@pytest.mark.parametrize(("name", "message"), [("m.xml", "write openvino://"), ("m.pt2", r"\?runtime=onnx")])
def test_a_file_of_another_kind_is_told_where_it_belongs(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(f"onnx://{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("scheme", "hidden", "command"),
    [
        ("onnx", "onnxruntime", r"pip install 'sponge-serving\[onnx\]'"),
        ("openvino", "openvino", r"pip install 'sponge-serving\[openvino\]'"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, hidden: str, command: str
) -> None:
    path = onnx_models.linear(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(ModelError, match=f"needs {hidden}: {command}"):
        load(f"{scheme}://{path}")


# --- kept files ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path


def test_files_are_made_once_and_only_kept_whole(cache: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "m").write_text("content")

    def fail(folder: Path) -> None:
        (folder / "m").write_text("half")
        raise ModelError("no")

    with pytest.raises(ModelError, match="no"):
        files.kept("a", fail)
    assert list((cache / "cache/sponge/runtimes").iterdir()) == []
    first, second = files.kept("a", make), files.kept("a", make)
    assert first == second
    assert len(made) == 1
    assert (first / "m").read_text() == "content"
    assert [path.name for path in first.parent.iterdir()] == ["a"]


def test_where_the_cache_cannot_be_written_a_temporary_folder_serves(cache: Path) -> None:
    (cache / "cache").write_text("a file where a folder should be")
    folder = files.kept("a", lambda folder: (folder / "m").touch())
    assert folder.is_relative_to(cache / "temporary")
    assert folder.parent.stat().st_mode & 0o077 == 0


def test_without_any_folder_the_message_names_the_variable(cache: Path) -> None:
    (cache / "cache").touch()
    (cache / "temporary").touch()
    with pytest.raises(ModelError, match="mount a volume at one of them, or set XDG_CACHE_HOME"):
        files.kept("a", lambda folder: None)


def test_a_changed_file_has_another_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("a")
    before = files.digest(files.fingerprint([tmp_path / "m"]))
    assert files.digest(files.fingerprint([tmp_path / "m"])) == before
    (tmp_path / "m").write_text("ab")
    assert files.digest(files.fingerprint([tmp_path / "m"])) != before
