"""ONNX models in int8: weights and activations as 8-bit numbers, with the quantiser of ONNX Runtime.

With example rows, every operator is quantised to the range of numbers that the rows cause. Without, only matrix
products are, whose ranges are found while they run. Runs in a process of its own.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from sponge_server.runtimes import onnx_file
from sponge_server.runtimes.examples import Examples
from sponge_server.runtimes.files import digest, fingerprint, kept
from sponge_server.runtimes.onnx_runtime import first_line
from sponge_server.workers.interface import ModelError
from sponge_system.cpu_flags import cpu_flags

__all__ = ["quantised"]

_CALIBRATION_SHARE = 0.75
"""Of the rows; the rest is for comparing the answers."""

_BATCH = 8
_MODEL = "model.onnx"

Rows = Mapping[str, npt.NDArray[Any]]


def quantised(path: Path, examples: Examples | None) -> Path:
    """The model in int8, made once. Raises ModelError when it cannot be."""
    import onnxruntime

    model = onnx_file.read(path)
    operators = {node.op_type for node in model.graph.node}
    if operators & {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}:
        raise ModelError(f"'{path}' is quantised already: leave dtype out")
    if examples is None and "Conv" in operators:
        raise ModelError(
            f"the convolutions of '{path}' need example rows to find their range of numbers: add "
            "&examples=/path/rows.npz, made by numpy.savez(path, INPUT=array) of some 100 real rows"
        )
    if examples is None and not operators & {"MatMul", "Gemm", "Attention", "LSTM"}:
        raise ModelError(f"'{path}' has no matrix product that int8 makes faster: use fp32")
    files = [path, *onnx_file.data_files(path, model), *([] if examples is None else [examples.path])]
    # Without VNNI, sums of products of full 8-bit numbers overflow.
    narrow = not {"avx512_vnni", "avx_vnni", "amx_int8"} & cpu_flags()
    names = [name for name, _, _ in onnx_file.described(path, model, batched=False)["inputs"]]
    rows = None if examples is None else dict(zip(names, examples.read(), strict=True))
    key = digest("int8", fingerprint(files), onnxruntime.__version__, narrow)
    return kept(key, lambda folder: _write(path, folder / _MODEL, rows, narrow)) / _MODEL


def _write(path: Path, output: Path, rows: Rows | None, narrow: bool) -> None:
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self, batches: Iterator[Rows]) -> None:
            self._batches = batches

        def get_next(self) -> Rows | None:
            return next(self._batches, None)

    logging.getLogger().setLevel(logging.ERROR)  # it advises on how to call it
    options: dict[str, Any] = {"per_channel": True, "reduce_range": narrow, "weight_type": quantization.QuantType.QInt8}
    try:
        with tempfile.TemporaryDirectory() as scratch:
            whole, ready = (str(Path(scratch) / name) for name in ("whole.onnx", _MODEL))
            onnx.save(onnx.load(str(path)), whole)  # the quantiser loses the way to weights in other files
            if rows is None:
                quantization.quantize_dynamic(whole, str(output), **options)
                return
            quant_pre_process(whole, ready, skip_symbolic_shape=True)
            quantization.quantize_static(ready, str(output), Reader(_batches(rows)), **options)
    except Exception as error:  # noqa: BLE001 - the quantiser raises anything
        raise ModelError(f"'{path}' cannot be quantised ({first_line(error)}): use fp32") from None


def _batches(rows: Rows) -> Iterator[Rows]:
    count = len(next(iter(rows.values())))
    for start in range(0, max(1, int(count * _CALIBRATION_SHARE)), _BATCH):
        yield {name: array[start : start + _BATCH] for name, array in rows.items()}
