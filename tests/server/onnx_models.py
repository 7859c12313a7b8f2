"""Small ONNX files for tests, whole and damaged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["WIDTH", "answer_of", "linear", "one_node", "openvino_ir", "opset"]

WIDTH = 4


def opset(version: int = 21, domain: str = "") -> onnx.OperatorSetIdProto:
    return helper.make_opsetid(domain, version)


def one_node(
    path: Path,
    operator: str = "Relu",
    *,
    domain: str = "",
    opsets: Sequence[onnx.OperatorSetIdProto] = (),
    shape: Sequence[str | int] = ("batch", WIDTH),
    kind: int = TensorProto.FLOAT,
    reads: str = "x",
    ir: int = 10,
    declares: bool = True,
) -> Path:
    """A model of one operator, from x to y. `declares`: the version of the operator's domain."""
    node = helper.make_node(operator, [reads], ["y"], domain=domain)
    values = [helper.make_tensor_value_info(name, kind, list(shape)) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    own = [opset(1, domain)] if domain and declares else []
    model = helper.make_model(graph, opset_imports=[*(opsets or (opset(),)), *own])
    model.ir_version = ir
    path.write_bytes(model.SerializeToString())
    return path


def linear(path: Path, width: int = WIDTH, weights: str | None = None) -> Path:
    """y = x @ w, with its weights in the file `weights` beside it if named."""
    matrix = np.random.default_rng(0).random((width, width), dtype=np.float32)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        values[:1],
        values[1:],
        [numpy_helper.from_array(matrix, "w")],
    )
    model = helper.make_model(graph, opset_imports=[opset()])
    model.ir_version = 10
    onnx.save(model, str(path), save_as_external_data=weights is not None, location=weights, size_threshold=0)
    return path


def openvino_ir(path: Path) -> Path:
    """A linear model as an IR: `path` and its weights in a .bin."""
    source = linear(path.with_suffix(".onnx"), 64)
    _elsewhere(
        "import openvino\n"
        "openvino.save_model(openvino.Core().read_model(sys.argv[1]), sys.argv[2], compress_to_fp16=False)",
        *map(str, (source, path)),
    )
    return path


def answer_of(path: Path, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The answer of a plain session of ONNX Runtime, with its defaults."""
    np.save(path.with_suffix(".in.npy"), rows)
    _elsewhere(
        "import numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "(given,) = session.run(None, {session.get_inputs()[0].name: numpy.load(sys.argv[2])})\n"
        "numpy.save(sys.argv[3], given)",
        *map(str, (path, path.with_suffix(".in.npy"), path.with_suffix(".out.npy"))),
    )
    given: npt.NDArray[Any] = np.load(path.with_suffix(".out.npy"))
    return given


def _elsewhere(program: str, *arguments: str) -> None:
    """Runs in a process of its own: a runtime that was imported here would break in the forks that tests make."""
    subprocess.run([sys.executable, "-c", f"import sys\n{program}", *arguments], check=True, timeout=120)
