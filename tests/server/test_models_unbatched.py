"""`?batch=false`: files whose first dimension is no batch run one request at a time, with exactly their own shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_models
import pytest
import torch

from sponge_server.models.source import load
from sponge_server.workers.interface import ModelError, TensorSpec
from sponge_server.workers.probe import probe

pytestmark = pytest.mark.torch


class Pair(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Two inputs of one batch-less shape, one of them without any dimension."""

    def forward(self, x: torch.Tensor, by: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * by, x.sum()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    path = tmp_path / "pair.pt2"
    shapes = ({1: torch.export.Dim("wide", min=1, max=64)}, None)
    torch.export.save(torch.export.export(Pair(), (torch.ones(2, 5), torch.tensor(3.0)), dynamic_shapes=shapes), path)
    return path


def test_an_exported_program_without_a_batch(exported: Path) -> None:
    with pytest.raises(
        ModelError, match=r"exported for batches of exactly 2: .*if that dimension is no batch, add .batch=f"
    ):
        load(f"file://{exported}")
    model = load(f"file://{exported}?batch=false")
    assert [(spec.shape, spec.datatype) for spec in model.inputs] == [((2, -1), "FP32"), ((), "FP32")]
    assert (model.batched, model.max_batch, model.size) == (False, 1, None)
    found = probe(model, 8, 60.0)
    assert [spec.shape for spec in found.outputs] == [(2, -1), ()]
    (_, scaled), (_, total) = model.run([torch.ones(1, 2, 3), torch.tensor([4.0])])
    assert (scaled.shape, scaled.unique().tolist(), total.tolist()) == ((1, 2, 3), [4.0], [6.0])


def test_torchscript_without_a_batch(tmp_path: Path) -> None:
    path = tmp_path / "pair.pt"
    torch.jit.script(Pair()).save(str(path))
    inputs = [{"name": "x", "datatype": "FP32", "shape": [2, -1]}, {"name": "by", "datatype": "FP32", "shape": []}]
    path.with_name("pair.pt.json").write_text(json.dumps({"inputs": inputs}))
    model = load(f"file://{path}?batch=false")
    assert [spec.shape for spec in probe(model, 1, 60.0).outputs] == [(2, -1), ()]


@pytest.mark.parametrize("scheme", ["onnx", "openvino"])
def test_an_onnx_file_for_exactly_two_rows_is_one_run(tmp_path: Path, scheme: str) -> None:
    path = onnx_models.one_node(tmp_path / "two.onnx", shape=(2, "any"))
    with pytest.raises(
        ModelError, match=r"for batches of exactly 2: .*if that dimension is no batch, add \?batch=false"
    ):
        load(f"{scheme}://{path}")
    model = load(f"{scheme}://{path}?batch=false")
    assert model.inputs == (TensorSpec("x", "FP32", (2, -1)),)
    assert probe(model, 1, 60.0).outputs == (TensorSpec("y", "FP32", (2, -1)),)
    ((_, y),) = model.run([torch.tensor([[[-1.0, 2.0], [3.0, -4.0]]])])
    np.testing.assert_array_equal(y.numpy(), [[[0, 2], [3, 0]]])
    other = "openvino" if scheme == "onnx" else "onnx"
    assert not load(f"{scheme}://{path}?batch=false&runtime={other}").batched


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?batch=no", "batch must be true or false, not 'no'"),
        ("?batch=false&runtime=onnx", "has no batch, and only a model with one is converted: leave --runtime out"),
    ],
)
def test_what_cannot_be_is_told(exported: Path, options: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(f"file://{exported}{options}")


def test_images_have_a_batch(exported: Path) -> None:
    image = {"mode": "RGB", "crop": [8, 8], "mean": [0.0] * 3, "std": [1.0] * 3}
    exported.with_name("pair.pt2.json").write_text(json.dumps({"image": image}))
    with pytest.raises(ModelError, match=r"image needs a batch: leave \?batch=false out"):
        load(f"file://{exported}?batch=false")
