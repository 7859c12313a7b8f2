"""ONNX Runtime: `onnx:///path/model.onnx`, and models of torch that were exported to ONNX.

The thread pool of a session is fixed, so a lane has a session for each thread count. The model is optimised once, into
a file with its weights as the kernels want them; every session of every lane maps that file, so another thread count
costs some MiB instead of the model's size, and some ms.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sponge_core.errors import needs_extra
from sponge_server.runtimes.examples import Examples
from sponge_server.runtimes.files import digest, fingerprint, kept
from sponge_server.runtimes.interface import Runtime
from sponge_server.workers.allocator import give_back
from sponge_server.workers.forked_call import forked_call
from sponge_server.workers.interface import ModelError, TensorSpec
from sponge_system.cpu_flags import cpu_flags

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["OnnxRuntime", "first_line", "quantised_in_fork", "read_in_fork"]

_PREPARE_S = 600.0
_MODEL, _WEIGHTS = "model.onnx", "weights.bin"
_SMALLEST_BYTES = "64"  # of a tensor that is kept among the weights
_QUIET = 4  # of ONNX Runtime's levels: errors are raised anyway


class OnnxRuntime(Runtime):
    """A prepared ONNX model."""

    def __init__(self, path: Path, batched: bool = True) -> None:
        """Reads and optimises the file in another process. Raises ModelError, which names the fix.

        Args:
            path: the ONNX file; weights beside it are found by the names in it.
            batched: the first dimension of everything is the batch.
        """
        self.path = path
        self.batched = batched
        found = forked_call(lambda: _prepared(path, batched), _PREPARE_S, "preparing the ONNX model")
        self._folder = Path(found["folder"])
        self.inputs = tuple(TensorSpec(name, kind, tuple(shape)) for name, kind, shape in found["inputs"])
        self.outputs = tuple(found["outputs"])
        self.max_batch = found["max_batch"]
        self.platform = "onnxruntime_onnx"
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}
        self._session: onnxruntime.InferenceSession | None = None

    def use_threads(self, threads: int) -> None:
        session = self._sessions.get(threads)
        if session is None:
            session = self._sessions[threads] = _session(self._folder / _MODEL, _options(threads, optimise=False))
            give_back()  # opening copies the weights for a moment
        self._session = session

    def __call__(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        if self._session is None:
            self.use_threads(1)
        assert self._session is not None
        feeds = {spec.name: tensor.numpy() for spec, tensor in zip(self.inputs, inputs, strict=True)}
        given = self._session.run(self.outputs, feeds)
        return {name: torch.as_tensor(array) for name, array in zip(self.outputs, given, strict=True)}

    def in_dtype(self, dtype: str, examples: Examples | None) -> OnnxRuntime:
        if dtype == "int8":
            return OnnxRuntime(quantised_in_fork(self.path, examples), self.batched)
        raise ModelError(f"ONNX Runtime does not compute in {dtype} on CPUs: use --runtime openvino, or fp32")


def read_in_fork(path: Path, batched: bool) -> dict[str, Any]:
    """Inputs and outputs of the file; see `onnx_file.Described`. Raises ModelError."""

    def read() -> dict[str, Any]:
        from sponge_server.runtimes import onnx_file

        return onnx_file.described(path, onnx_file.read(path), batched)

    return forked_call(read, _PREPARE_S, "reading the ONNX model")


def quantised_in_fork(path: Path, examples: Examples | None) -> Path:
    """The model of the file in int8; see `quantising.quantised`. Raises ModelError."""

    def quantise() -> dict[str, Any]:
        from sponge_server.runtimes.quantising import quantised

        return {"path": str(quantised(path, examples))}

    return Path(forked_call(quantise, _PREPARE_S, "the conversion to int8")["path"])


def first_line(error: Exception) -> str:
    """An error of a runtime without its addresses, its places in C++ code and repetitions."""
    text = re.sub(r"/\S+\.(?:cc|h):\d+ .*\)(?: const)? ", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _prepared(path: Path, batched: bool) -> dict[str, Any]:
    try:
        import onnxruntime
    except ImportError:
        raise ModelError(needs_extra("an ONNX model", "onnxruntime", "onnx")) from None
    from sponge_server.runtimes import onnx_file

    model = onnx_file.read(path)
    answer = onnx_file.described(path, model, batched)
    files = fingerprint([path, *onnx_file.data_files(path, model)])
    # The layout of the weights depends on the CPU and the version.
    key = digest("onnx", files, onnxruntime.__version__, sorted(cpu_flags()))
    answer["folder"] = str(kept(key, lambda folder: _optimise(path, folder)))
    return answer


def _optimise(path: Path, folder: Path) -> None:
    """Writes the model as ONNX Runtime would run it here. Raises ModelError when it cannot."""
    options = _options(1, optimise=True)
    options.optimized_model_filepath = str(folder / _MODEL)
    for name, value in (
        ("session.optimized_model_external_initializers_file_name", _WEIGHTS),
        ("session.optimized_model_external_initializers_min_size_in_bytes", _SMALLEST_BYTES),
        ("session.save_external_prepacked_constant_initializers", "1"),
    ):
        options.add_session_config_entry(name, value)
    _session(path, options)


def _session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - its errors have no common class
        text = (first_line(error).partition(" failed:")[2] or first_line(error)).strip()
        operator = re.search(
            r"(\S+)\(-?\d+\) is not a registered|No Op registered for (\S+)|(\w+), \S+ -1\).*No opset import", text
        )
        if operator:
            name = operator[operator.lastindex or 0]
            raise ModelError(
                f"'{path}' uses the operator {name}, which ONNX Runtime does not have: export the model without it"
            ) from None
        mend = "the package onnx tells more (onnx.checker.check_model); then export the model again"
        if "IR version" in text:
            mend = "export the model with an earlier version of onnx, or install a newer onnxruntime"
        raise ModelError(f"ONNX Runtime cannot load '{path}': {text}: {mend}") from None


def _options(threads: int, optimise: bool) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _QUIET
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    # A waiting thread must sleep: under a CPU quota, spinning uses CPU that others need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The sessions of a lane never run together: one allocator for all of them, the process's own.
    options.enable_cpu_mem_arena = False
    return options
