"""Files behind `file://`: keyword arguments, TorchScript, and what is refused without running a pickle."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from sponge_server.models.exported import sidecar_path
from sponge_server.models.source import load
from sponge_server.workers.interface import ModelError, TensorSpec

pytestmark = pytest.mark.torch

BATCH = torch.export.Dim("batch", min=1)


class Masked(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Takes its inputs as models of Hugging Face do."""

    def forward(
        self, ids: torch.Tensor, *, mask: torch.Tensor | None = None, scale: int = 1, extra: Any = None
    ) -> dict[str, torch.Tensor]:
        assert mask is not None
        return {"sums": (ids * mask).sum(1) * scale}


def exported(path: Path, **named: Any) -> str:
    shapes = {name: {0: BATCH} if isinstance(value, torch.Tensor) else None for name, value in named.items()}
    program = torch.export.export(Masked(), (torch.ones(2, 3),), named, dynamic_shapes={"ids": {0: BATCH}, **shapes})
    torch.export.save(program, path)
    return f"file://{path}"


@pytest.mark.parametrize(("more", "scale"), [({}, 1), ({"scale": 5, "extra": None}, 5)])
def test_keyword_arguments_become_inputs_and_constants_stay(tmp_path: Path, more: dict[str, Any], scale: int) -> None:
    model = load(exported(tmp_path / "m.pt2", mask=torch.ones(2, 3), **more))
    assert model.inputs == (TensorSpec("ids", "FP32", (3,)), TensorSpec("mask", "FP32", (3,)))
    ((name, sums),) = model.run([torch.full((4, 3), 2.0), torch.tensor([[1.0, 1.0, 0.0]] * 4)])
    assert (name, sums.tolist()) == ("sums", [4.0 * scale] * 4)


def script(path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Flatten(), torch.rand(2, 3, 4)), path)
    return f"file://{path}"


def test_torchscript_needs_a_description_of_its_inputs(tmp_path: Path) -> None:
    url = script(tmp_path / "m.pt")
    with pytest.raises(
        ModelError, match=r"write '.*m\.pt\.json' with each shape .* for example \{\"inputs\": "
    ) as told:
        load(url)
    example = json.loads(str(told.value).rpartition("for example ")[2])
    example["inputs"][0]["shape"] = [3, -1]
    sidecar_path(tmp_path / "m.pt").write_text(json.dumps(example | {"outputs": ["flat"]}))
    model = load(url)
    assert model.inputs == (TensorSpec("input", "FP32", (3, -1)),)
    assert [(name, list(t.shape)) for name, t in model.run([torch.rand(5, 3, 2)])] == [("flat", [5, 6])]


def test_torchscript_for_images_has_the_input_that_the_conversion_makes(tmp_path: Path) -> None:
    url = script(tmp_path / "m.pt")
    image = {"mode": "RGB", "crop": [8, 9], "mean": [0, 0, 0], "std": [1, 1, 1]}
    sidecar_path(tmp_path / "m.pt").write_text(json.dumps({"image": image, "inputs": ["pixels"]}))
    assert load(url).inputs == (TensorSpec("pixels", "FP32", (3, 8, 9)),)


class Bomb:
    """Leaves a file behind when it is read from a pickle."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._mark),)


def bytes_of(kind: str, mark: Path) -> bytes:
    if kind == "state dict":
        buffer = io.BytesIO()
        torch.save({"bomb": Bomb(mark)}, buffer)
        return buffer.getvalue()
    whole = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.ones(2, 6),), dynamic_shapes=({0: BATCH},)), whole)
    return {
        "pickle": pickle.dumps(Bomb(mark)),
        "empty": b"",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "page": b"<!DOCTYPE html><html>",
        "weights": b"\x08\0\0\0\0\0\0\0{}      ",
        "keras": b"\x89HDF\r\n\x1a\n",
        "nonsense": b"nonsense",
        "cut": whole.getvalue()[:-100],
        "skops": zipped("schema.json"),
        "zip": zipped("readme.txt"),
    }[kind]


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "{}")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("state dict", "what torch.save wrote, a pickle .*weights_only=True"),
        ("pickle", "a Python pickle, which may run any code: save the model with torch.export.save or skops"),
        ("empty", "is empty: copy it again"),
        ("lfs", "run `git lfs pull`"),
        ("page", "a web page or XML: was the download refused"),
        ("weights", "weights without its network: use hf://"),
        ("keras", "export the model to ONNX"),
        ("nonsense", "is not a torch.export program: save the model with"),
        ("cut", "but cut short or damaged: copy it again"),
        ("skops", "use sklearn://"),
        ("zip", "is not a torch.export program, TorchScript or"),
    ],
)
def test_a_file_of_another_kind_is_named_with_what_to_do(tmp_path: Path, kind: str, message: str) -> None:
    path, mark = tmp_path / "model", tmp_path / "bomb"
    path.write_bytes(bytes_of(kind, mark))
    with pytest.raises(ModelError, match=message):
        load(f"file://{path}")
    assert not mark.exists()


def test_a_folder_is_told_from_a_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder: name the file in it"):
        load(f"file://{tmp_path}")


def test_a_pickle_inside_a_program_runs_only_where_it_is_allowed(tmp_path: Path) -> None:
    whole, mark = tmp_path / "m.pt2", tmp_path / "bomb"
    url = exported(whole, mask=torch.ones(2, 3))
    bomb = io.BytesIO()
    torch.save(((Bomb(mark),), {}), bomb)
    changed = tmp_path / "changed.pt2"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, bomb.getvalue() if name.endswith("sample_inputs/model.pt") else old.read(name))
    with pytest.raises(
        ModelError, match=r"may run any code: export it .* or trust the file and add \?allow_pickle=true"
    ):
        load(url.replace("m.pt2", "changed.pt2"))
    assert not mark.exists()
    with contextlib.suppress(ModelError):  # the examples are not of this program any more
        load(url.replace("m.pt2", "changed.pt2") + "?allow_pickle=true")
    assert mark.exists()
