"""int8 and bf16 in the runtimes: what is compared, what it needs, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest

from sponge_server.models import precision
from sponge_server.models.source import load
from sponge_server.runtimes.onnx_runtime import OnnxRuntime
from sponge_server.workers.examples import example_item
from sponge_server.workers.interface import ModelError, ModelSpec
from sponge_server.workers.pool import WorkerPool

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real rows of the digits model."""
    from sklearn.datasets import load_digits

    path = tmp_path_factory.mktemp("digits") / "rows.npz"
    images = load_digits().images[:160].astype(np.float32)[:, None] / 16
    np.savez(path, input=images)
    return path


async def test_int8_with_real_rows_keeps_the_answers_in_both_runtimes(digits: Path) -> None:
    plain = load("digits://?runtime=onnx")
    assert isinstance(plain.forward, OnnxRuntime)
    rows = digits.parent / "rows.npy"
    np.save(rows, np.load(digits)["input"])
    sources = [
        "digits://",
        f"digits://?runtime=onnx&dtype=int8&examples={digits}",
        f"onnx://{plain.forward.path}?runtime=openvino&dtype=int8&examples={rows}",
    ]
    pool = WorkerPool([ModelSpec(f"m{number}", source, 4) for number, source in enumerate(sources)])
    try:
        await pool.start(1)
        assert [m.platform for m in pool.models] == ["pytorch_export", "onnxruntime_onnx, int8", "openvino, int8"]
        answers = []
        for model, info in enumerate(pool.models):
            result = await pool.lanes[0].run([example_item(info, 3)], 2, model=model)
            assert isinstance(result.outputs[0], tuple)
            answers.append(np.frombuffer(result.outputs[0][0].data, np.float32))
        for other in answers[1:]:
            assert np.linalg.norm(other - answers[0]) < 0.2 * np.linalg.norm(answers[0])
            assert not np.array_equal(other, answers[0])
    finally:
        await pool.close()


def test_a_matrix_product_needs_no_rows(tmp_path: Path) -> None:
    path = onnx_models.linear(tmp_path / "m.onnx", 64)
    assert load(f"onnx://{path}?dtype=int8").platform == "onnxruntime_onnx, int8"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digits://?dtype=int8", r"int8: torch does not compute in it here: add --runtime onnx"),
        ("digits://?runtime=onnx&dtype=int8", r"int8: the convolutions of .* need example rows .*&examples=/path/rows"),
        ("digits://?runtime=openvino&dtype=int8", r"OpenVINO computes in int8 what was quantised with example rows"),
        ("digits://?runtime=onnx&dtype=int8&examples=/none.npz", r"'/none\.npz' cannot be read \(it does not exist\)"),
        ("onnx://{relu}?dtype=int8", "has no matrix product that int8 makes faster: use fp32"),
    ],
)
def test_int8_that_cannot_be_says_what_it_needs(tmp_path: Path, source: str, message: str) -> None:
    relu = onnx_models.one_node(tmp_path / "relu.onnx")
    with pytest.raises(ModelError, match=message):
        load(source.format(relu=relu))


@pytest.mark.parametrize(
    ("arrays", "holds"),
    [
        ({"x": (8, 1, 8, 8)}, r"hold x \[8, 1, 8, 8\]; the model takes input \[-1, 1, 8, 8\]"),
        ({"input": (8, 8, 8)}, r"hold input \[8, 8, 8\]"),
        ({"input": (3, 1, 8, 8)}, "at least 4 rows"),
        ({}, "hold nothing"),
    ],
)
def test_rows_that_do_not_fit_the_model_are_told(
    tmp_path: Path, arrays: dict[str, tuple[int, ...]], holds: str
) -> None:
    given: dict[str, Any] = {name: np.zeros(shape) for name, shape in arrays.items()}
    np.savez(tmp_path / "rows.npz", **given)
    with pytest.raises(ModelError, match=holds):
        load(f"digits://?runtime=onnx&dtype=int8&examples={tmp_path}/rows.npz")


def test_a_file_that_holds_no_rows_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows.npz").write_text("no numbers")
    with pytest.raises(ModelError, match="cannot be read"):
        load(f"digits://?runtime=onnx&dtype=int8&examples={tmp_path}/rows.npz")


def test_an_inaccurate_model_is_refused_unless_accepted(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "LARGEST_ERROR", 0.0)
    source = f"digits://?runtime=onnx&dtype=int8&examples={digits}"
    with pytest.raises(ModelError, match=r"int8: its outputs differ by .* or accept it with --accept-accuracy"):
        load(source)
    accepted = load(f"{source}&accept_accuracy=true")
    assert accepted.warning is not None
    assert "in int8 its outputs differ by" in accepted.warning


def test_bf16_is_refused_where_the_runtime_or_the_cpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "native_bf16", lambda: True)
    with pytest.raises(ModelError, match="bf16: ONNX Runtime does not compute in bf16 on CPUs: use --runtime openvino"):
        load("digits://?runtime=onnx&dtype=bf16")
    assert load("digits://?runtime=onnx&dtype=auto").platform == "onnxruntime_onnx"
    monkeypatch.setattr(precision, "native_bf16", lambda: False)
    with pytest.raises(ModelError, match="bf16: this CPU does not compute in it"):
        load("digits://?runtime=openvino&dtype=bf16")
