"""Model sources by URL: what is refused, with which message."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from sponge_server.models import digits
from sponge_server.models.exported import sidecar_path
from sponge_server.models.source import load, parse
from sponge_server.workers.interface import ModelError, TensorSpec
from sponge_server.workers.row_size import RowSize
from sponge_system.cache_folder import models_folder

pytestmark = pytest.mark.torch


def export(path: Path, batch: object, size: object = None) -> str:
    module = torch.nn.Sequential(torch.nn.ReLU())
    shapes = {0: batch} if size is None else {0: batch, 1: size}
    dynamic = (shapes,) if batch is not None else None
    torch.export.save(torch.export.export(module, (torch.ones(2, 6),), dynamic_shapes=dynamic), path)
    return f"file://{path}"


def test_a_source_is_scheme_target_and_options() -> None:
    source = parse("torchvision://resnet18?weights=none")
    assert (source.scheme, source.target, source.options) == ("torchvision", "resnet18", {"weights": "none"})
    assert parse("file:///a%20b/m.pt2").target == "/a b/m.pt2"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("resnet18", "of an unknown kind; write for example torchvision://resnet18"),
        ("ftp://host/m", "of an unknown kind"),
        ("torchvision://resnet81", "no classifier 'resnet81'; close: resnet"),
        ("torchvision://resnet18?weight=none", "unknown option 'weight'; torchvision:// takes weights"),
        ("torchvision://resnet18?weights=COCO", "choose one of DEFAULT, none, IMAGENET1K_V1"),
        ("digits://x", "takes nothing after the slashes"),
        ("file:///nowhere.pt2", "no model file"),
        ("file:///a.pt2?x=1", "file:// takes allow_pickle"),
        ("python://nowhere:make", "No module named 'nowhere'"),
        ("python://:make", "write python://package.module:factory"),
        ("python://os.path:getcwd", "has no attribute"),
        ("python://os:getcwd", "returned str, expected a LoadedModel"),
    ],
)
def test_refused_with_the_fix(url: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(url)


def test_a_classifier_loads_without_torchs_compiler_which_works_afterwards() -> None:
    program = """
import sys
from sponge_server.models.source import load
load("torchvision://mobilenet_v3_small?weights=none")
assert not [name for name in sys.modules if name.startswith("torch._dynamo")]
import torch, torchvision
assert sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu") in (True, False)
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist() == [2.0, 2.0]
assert torch._dynamo.utils.counters
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_the_stand_in_for_the_compiler_hands_everything_else_over() -> None:
    program = """
import sys
from sponge_server.models.without_compiler import without_compiler
with without_compiler():
    from torch._dynamo.utils import counters, is_compile_supported
import torch._dynamo
assert counters is torch._dynamo.utils.counters
assert is_compile_supported("cpu") == torch._dynamo.utils.is_compile_supported("cpu")
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_weights_without_a_network_name_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(ModelError, match=r"use torchvision://mobilenet_v3_small\?weights=none .* or put the file at"):
        load("torchvision://mobilenet_v3_small")


def test_random_weights_are_the_same_every_time_and_come_with_a_warning() -> None:
    first, second = (load("torchvision://mobilenet_v3_small?weights=none") for _ in range(2))
    assert first.warning is not None
    assert "random" in first.warning
    assert first.inputs == (TensorSpec("input", "FP32", (3, 224, 224)),)
    assert first.labels is not None
    assert (len(first.labels), first.labels[0]) == (1000, "tench")
    x = torch.rand(1, 3, 224, 224)
    assert torch.equal(first.run([x])[0][1], second.run([x])[0][1])


def test_the_input_size_is_the_models_own() -> None:
    assert load("torchvision://efficientnet_b1?weights=none").inputs[0].shape == (3, 240, 240)


def test_an_exported_program_keeps_its_free_dimensions_and_its_bound(tmp_path: Path) -> None:
    bound = torch.export.Dim("batch", min=1, max=16)
    model = load(export(tmp_path / "m.pt2", bound, torch.export.Dim("size", min=1)))
    assert (model.inputs[0].shape, model.max_batch) == ((-1,), 16)
    assert load(export(tmp_path / "n.pt2", torch.export.Dim("batch", min=1))).max_batch is None


def test_a_free_dimension_with_a_bound_is_the_size_of_a_row(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    bounded = load(export(tmp_path / "m.pt2", batch, torch.export.Dim("size", min=4, max=512)))
    assert bounded.size == RowSize(bounded.inputs[0].name, most=512, least=4)
    assert load(export(tmp_path / "n.pt2", batch, torch.export.Dim("size", min=1))).size is None
    assert load(export(tmp_path / "o.pt2", batch)).size is None


def test_a_fixed_batch_says_how_to_export(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"batches of exactly 2: export it with dynamic_shapes=.*Dim"):
        load(export(tmp_path / "m.pt2", None))


@pytest.mark.parametrize(
    ("sidecar", "message"),
    [
        ("{", r"m\.pt2\.json'.*JSON"),
        ('{"lables": []}', "lables Extra inputs are not permitted"),
        ('{"inputs": ["a", "b"]}', "names 2 inputs, the program has 1"),
        ('{"image": {"mode": "L", "crop": [8, 8], "mean": [0], "std": [1]}}', "one FP32 input of channels x height"),
    ],
)
def test_a_wrong_sidecar_is_named(tmp_path: Path, sidecar: str, message: str) -> None:
    url = export(tmp_path / "m.pt2", torch.export.Dim("batch", min=1))
    sidecar_path(tmp_path / "m.pt2").write_text(sidecar)
    with pytest.raises(ModelError, match=message):
        load(url)


@pytest.mark.parametrize("writable", [True, False])
def test_digits_are_built_elsewhere_where_the_cache_is_read_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, writable: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    models_folder().mkdir(parents=True)
    built: list[Path] = []

    def build(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        built.append(Path(command[-1]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", build)
    monkeypatch.setattr(os, "access", lambda *_: writable)
    assert [digits.cached()] == built
    assert built[0].is_relative_to(models_folder()) is writable
