"""OpenVINO: `openvino:///path/model.xml` or `.onnx`, and models of torch that were converted.

The thread pool of a compiled model is fixed, so a lane compiles the model for each thread count, at its first use.
Compiled models share nothing: each has the weights in its own layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sponge_core.errors import needs_extra
from sponge_server.runtimes.examples import Examples
from sponge_server.runtimes.interface import Runtime
from sponge_server.runtimes.onnx_runtime import quantised_in_fork, read_in_fork
from sponge_server.workers.forked_call import forked_call
from sponge_server.workers.interface import ModelError, TensorSpec

if TYPE_CHECKING:
    import openvino

__all__ = ["OpenVino"]

_READ_S = 600.0
_OIP = {
    "boolean": "BOOL",
    "u8": "UINT8",
    "u16": "UINT16",
    "u32": "UINT32",
    "u64": "UINT64",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "f16": "FP16",
    "f32": "FP32",
    "f64": "FP64",
}


class OpenVino(Runtime):
    """A model that OpenVINO reads: its own IR (.xml and .bin) or ONNX."""

    def __init__(self, path: Path, batched: bool = True, precision: str = "f32") -> None:
        """Reads the file in another process. Raises ModelError, which names the fix.

        Args:
            batched: the first dimension of everything is the batch.
            precision: "f32" or "bf16", of the computation; inputs and outputs keep their types.
        """
        self.path = path
        self.batched = batched
        if path.suffix == ".onnx":
            read_in_fork(path, batched)  # its messages are better
        found = forked_call(lambda: _described(path, batched), _READ_S, "reading the model with OpenVINO")
        self.inputs = tuple(TensorSpec(name, kind, tuple(shape)) for name, kind, shape in found["inputs"])
        self.outputs = tuple(found["outputs"])
        self.max_batch = found["max_batch"]
        self.platform = "openvino"
        self._precision = precision
        self._model: openvino.Model | None = None
        self._requests: dict[int, openvino.InferRequest] = {}
        self._request: openvino.InferRequest | None = None

    def use_threads(self, threads: int) -> None:
        request = self._requests.get(threads)
        if request is None:
            request = self._requests[threads] = self._compiled(threads)
        self._request = request

    def __call__(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        if self._request is None:
            self.use_threads(1)
        assert self._request is not None
        arrays = dict(enumerate(tensor.numpy() for tensor in inputs))
        given = self._request.infer(arrays, share_inputs=True)
        return {name: torch.from_numpy(given[index]) for index, name in enumerate(self.outputs)}

    def in_dtype(self, dtype: str, examples: Examples | None) -> OpenVino:
        if dtype == "bf16":
            return OpenVino(self.path, self.batched, "bf16")
        if self.path.suffix != ".onnx" or examples is None:
            raise ModelError(
                "OpenVINO computes in int8 what was quantised with example rows: give an .onnx file and "
                "&examples=/path/rows.npz, or serve a quantised .xml without a dtype"
            )
        return OpenVino(quantised_in_fork(self.path, examples), self.batched)

    def _compiled(self, threads: int) -> openvino.InferRequest:
        import openvino

        core = openvino.Core()
        if self._model is None:
            self._model = _read(self.path)
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": self._precision,  # else it is bf16 wherever the CPU has it, unchecked
            "ENABLE_CPU_PINNING": False,  # every lane would pin its threads to the same cores
        }
        return core.compile_model(self._model, "CPU", options).create_infer_request()


def _read(path: Path) -> openvino.Model:
    try:
        import openvino
    except ImportError:
        raise ModelError(needs_extra("an OpenVINO model", "openvino", "openvino")) from None
    try:
        return openvino.Core().read_model(str(path))
    except RuntimeError as error:
        raise ModelError(_why_not(path, str(error))) from None


def _described(path: Path, batched: bool) -> dict[str, Any]:
    model = _read(path)
    inputs, fixed = [], set()
    for port in model.inputs:
        shape, kind = port.get_partial_shape(), port.get_element_type().get_type_name()
        if kind not in _OIP:
            raise ModelError(
                f"'{path}': input {_name(port)} is {kind}, which cannot be sent: convert the model's input"
            )
        if shape.rank.is_dynamic or (batched and not len(shape)):
            raise ModelError(
                f"'{path}': input {_name(port)} has no batch dimension: convert the model with the batch as its first, "
                "or add ?batch=false to the source, so that a request is one run of the model"
            )
        sizes = [-1 if size.is_dynamic else size.get_length() for size in shape]
        inputs.append([_name(port), _OIP[kind], sizes[batched:]])
        fixed |= {sizes[0]} - {-1} if batched else set()
    if fixed - {1}:
        raise ModelError(
            f"'{path}' is for batches of exactly {max(fixed)}: convert it with a dynamic first dimension, as in "
            f"openvino.convert_model(model, input=[-1, {', '.join(map(str, inputs[0][2]))}]); if that dimension is no "
            "batch, add ?batch=false to the source"
        )
    return {
        "inputs": inputs,
        "outputs": [_name(port) for port in model.outputs],
        "max_batch": 1 if fixed or not batched else None,
    }


def _name(port: Any) -> str:
    names = sorted(port.get_names())
    return str(names[0] if names else port.get_node().get_friendly_name())


def _why_not(path: Path, text: str) -> str:
    weights = path.with_suffix(".bin")
    if "No conversion rule found for operations" in text:
        operators = text.partition("No conversion rule found for operations:")[2].strip().splitlines()[0]
        return f"'{path}' uses the operator {operators}, which OpenVINO does not have: export the model without it"
    if path.suffix == ".xml" and "weights" in text and not weights.is_file():
        return f"the weights of '{path}' are missing: put the file '{weights.name}' into the folder {path.parent}"
    if "weights" in text:
        return f"'{weights}' does not belong to '{path}', or is only a part of it: copy both files again"
    if path.suffix == ".xml":
        return f"'{path}' is not an OpenVINO model, or only a part of one: copy or convert it again"
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("Exception from", "Check '"))]
    return f"OpenVINO cannot read '{path}': {(lines or ['no reason given'])[0][:300]}"
