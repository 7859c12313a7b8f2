"""A loaded model: a callable with its shapes, and the conversion of images to its input.

This module imports torch; only the fork server and the lanes import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sponge_server.models.images import ImageTransform
from sponge_server.runtimes.interface import Runtime
from sponge_server.workers.interface import ItemError, TensorSpec
from sponge_server.workers.row_size import RowSize

__all__ = ["TORCH_DTYPE", "LoadedModel", "datatype_of"]

TORCH_DTYPE: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP32": torch.float32,
    "FP64": torch.float64,
}
"""The torch datatype of each Open Inference Protocol datatype."""

_OIP = {dtype: name for name, dtype in TORCH_DTYPE.items()}


def datatype_of(output: Any) -> str | None:
    """The Open Inference Protocol datatype of an output of `LoadedModel.run`; None if it cannot be sent."""
    return _OIP.get(output.dtype) if isinstance(output, torch.Tensor) else "BYTES"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run in evaluation mode.

    Attributes:
        forward: takes one tensor per input, in the order of `inputs`, and returns a tensor, or a tuple, list or mapping
            of tensors, each with the batch as its first dimension. Strings are numpy arrays of `bytes` objects. A
            `Runtime` also sets its own threads.
        output_names: in order; None: the names of the mapping, or output, output_1, ...
        image: converts encoded images to the only input; None if the model accepts no images.
        channels_last: whether 4-dimensional inputs need that memory format.
        max_batch: most rows that the model itself accepts; None: any number.
        finite: whether NaN and Inf in an output are errors of their rows.
        setup: prepares the process of a lane before its first batch. Unlike loading, it may start threads.
        size: the dimension that a row's work grows with; None: all rows cost the same.
    """

    forward: Callable[..., Any]
    inputs: tuple[TensorSpec, ...]
    platform: str
    output_names: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    image: ImageTransform | None = None
    channels_last: bool = False
    warning: str | None = None
    max_batch: int | None = None
    finite: bool = True
    setup: Callable[[], None] | None = None
    size: RowSize | None = None

    def use_threads(self, threads: int) -> int:
        """Runs the next batches of this process on `threads` threads; returns the number in force."""
        runtime = self.forward if isinstance(self.forward, Runtime) else None
        wanted = threads if runtime is None else 1  # beside a runtime, torch copies inputs and outputs only
        if wanted != torch.get_num_threads():
            torch.set_num_threads(wanted)
        if runtime is None:
            return int(torch.get_num_threads())
        runtime.use_threads(threads)
        return threads

    def run(self, inputs: list[torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
        """Named outputs of one batch. Raises ItemError when the model returns anything else."""
        with torch.inference_mode():
            given = self.forward(*inputs)
        if isinstance(given, Mapping):
            names, tensors = tuple(str(name) for name in given), list(given.values())
        else:
            tensors = list(given) if isinstance(given, tuple | list) else [given]
            names = tuple(f"output_{i}" if i else "output" for i in range(len(tensors)))
        if self.output_names is not None:
            names = self.output_names
        if len(names) != len(tensors):
            raise ItemError(f"the model returned {len(tensors)} outputs, its description names {len(names)}")
        rows = inputs[0].shape[0]
        for name, tensor in zip(names, tensors, strict=True):
            known = isinstance(tensor, torch.Tensor) or (isinstance(tensor, np.ndarray) and tensor.dtype == object)
            if not known or tensor.ndim < 1 or tensor.shape[0] != rows:
                shape = list(tensor.shape) if known else type(tensor).__name__
                raise ItemError(
                    f"the model's {name} is {shape} for {rows} rows: its first dimension must be the batch, which "
                    "squeeze() without a dimension drops"
                )
        return list(zip(names, tensors, strict=True))
