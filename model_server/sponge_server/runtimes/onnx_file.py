"""Reads an ONNX file without running it: inputs, outputs, and what makes it unusable, in words of the fix.

Imported in a process of its own, never in the fork server.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sponge_core.errors import needs_extra
from sponge_server.workers.interface import ModelError, TensorSpec

if TYPE_CHECKING:
    import onnx

__all__ = ["Described", "data_files", "described", "read"]

_OIP = {name: name for name in ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")} | {
    "FLOAT16": "FP16",
    "FLOAT": "FP32",
    "DOUBLE": "FP64",
}
"""The datatype of the Open Inference Protocol by ONNX's name."""

Described = dict[str, Any]
"""Plain values: `inputs` as [name, datatype, shape], `outputs` as names, `max_batch`."""


def read(path: Path) -> onnx.ModelProto:
    """The file without its external data. Raises ModelError when it is no ONNX file or lacks a part."""
    try:
        import onnx
    except ImportError:
        raise ModelError(needs_extra("an ONNX model", "onnx", "onnx")) from None
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # noqa: BLE001 - protobuf raises its own errors
        model = None
    if model is None or not model.graph.node:
        raise ModelError(f"'{path}' is not an ONNX model, or only a part of one: copy or export it again") from None
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > newest:
            raise ModelError(
                f"'{path}' uses ONNX opset {opset.version}, and this version of onnx knows {newest} at most: export it "
                f"with opset_version={newest}, or install a newer onnx and onnxruntime"
            )
    for file in data_files(path, model):
        if not file.is_file():
            raise ModelError(
                f"'{path}' keeps its weights in '{file.name}', which is missing: put it into the folder {file.parent}"
            )
    return model


def data_files(path: Path, model: onnx.ModelProto) -> list[Path]:
    """The files beside the model with its weights."""
    from onnx import TensorProto
    from onnx.external_data_helper import ExternalDataInfo

    names = {
        ExternalDataInfo(tensor).location
        for tensor in _tensors(model.graph)
        if tensor.data_location == TensorProto.EXTERNAL
    }
    return [path.parent / name for name in sorted(names)]


def described(path: Path, model: onnx.ModelProto, batched: bool) -> Described:
    """Inputs and outputs. Raises ModelError when they do not fit the server.

    Args:
        batched: the first dimension of everything is the batch; if not, shapes are whole.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs: list[tuple[str, str, list[int]]] = []
    fixed: set[int] = set()
    for value in model.graph.input:
        if value.name not in weights:
            spec, batch = _input(path, value, batched)
            inputs.append((spec.name, spec.datatype, list(spec.shape)))
            fixed |= set() if batch is None else {batch}
    for value in model.graph.output:
        if not value.type.HasField("tensor_type"):
            raise ModelError(
                f"'{path}': output {value.name} is a {value.type.WhichOneof('value') or 'value of no type'}, only "
                "tensors can be sent; for a model of scikit-learn export with options={'zipmap': False}"
            )
    if not inputs:
        raise ModelError(f"'{path}' has no inputs: export the model with its input as an argument")
    if fixed - {1}:
        raise ModelError(
            f"'{path}' was exported for batches of exactly {max(fixed)}: export it with a dynamic first dimension, "
            'dynamic_axes={"'
            + inputs[0][0]
            + '": {0: "batch"}} or dynamic_shapes with torch.export.Dim("batch"); if that '
            "dimension is no batch, add ?batch=false to the source"
        )
    return {
        "inputs": inputs,
        "outputs": [value.name for value in model.graph.output],
        "max_batch": 1 if fixed or not batched else None,
    }


def _input(path: Path, value: onnx.ValueInfoProto, batched: bool) -> tuple[TensorSpec, int | None]:
    """The input, and the number of rows if it is fixed."""
    from onnx import TensorProto

    kind = value.type.tensor_type
    name = TensorProto.DataType.Name(kind.elem_type) if value.type.HasField("tensor_type") else "no tensor"
    if name not in _OIP:
        raise ModelError(
            f"'{path}': input {value.name} is {name}, which cannot be sent: convert it to a number before the model"
        )
    sizes = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim]
    if batched and not sizes:
        raise ModelError(
            f"'{path}': input {value.name} has no batch dimension: export it with one, as the first, or add "
            "?batch=false to the source, so that a request is one run of the model"
        )
    shape = tuple(-1 if size is None else size for size in sizes)
    return (
        (TensorSpec(value.name, _OIP[name], shape[1:]), sizes[0])
        if batched
        else (
            TensorSpec(value.name, _OIP[name], shape),
            None,
        )
    )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
