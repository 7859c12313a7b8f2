"""A loaded model: a callable with its shapes, and the conversion of images to its input.

This module imports torch; only the fork server and the lanes import it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sponge_server.models.images import ImageTransform, Pixels
from sponge_server.runtimes.interface import Runtime
from sponge_server.workers.interface import ANY_SIZE, IntegerRange, ItemError, TensorSpec
from sponge_server.workers.row_size import RowSize
from sponge_server.workers.strings import unpacked

__all__ = ["LENGTHS", "TORCH_DTYPE", "LoadedModel", "Output", "Staged", "datatype_of", "string_array", "with_network"]

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


LENGTHS = "_lengths"
"""Ends the name of the output that a ragged output brings along: how many entries of it each row has."""

Output = Any
"""One output of a batch: a tensor, or an array of `bytes` objects, with the rows as its first dimension; or, where it
is ragged, a list with one of them for each row."""


def datatype_of(output: Output) -> str | None:
    """The Open Inference Protocol datatype of an output of `LoadedModel.run`; None if it cannot be sent."""
    if isinstance(output, list):
        return datatype_of(output[0])
    return _OIP.get(output.dtype) if isinstance(output, torch.Tensor) else "BYTES"


def string_array(data: bytes | bytearray | memoryview, shape: Sequence[int]) -> Any:
    """Packed strings as a model takes them."""
    array = np.empty(math.prod(shape), dtype=object)
    array[:] = unpacked(data)
    return array.reshape(shape)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run in evaluation mode.

    Attributes:
        forward: takes one tensor per input, in the order of `inputs`, and returns a tensor, or a tuple, list or mapping
            of tensors, each with the batch as its first dimension. A ragged input comes, and a ragged output of a
            mapping is given, as a list with a tensor for each row. Strings are numpy arrays of `bytes` objects. A
            `Runtime` also sets its own threads. `Staged` has a network between other stages.
        output_names: in order; None: the names of the mapping, or output, output_1, ...
        image: converts encoded images to the only input; None if the model accepts no images.
        channels_last: whether 4-dimensional inputs need that memory format.
        max_batch: most rows that the model itself accepts; None: any number.
        finite: whether NaN and Inf in an output are errors of their rows.
        setup: prepares the process of a lane before its first batch. Unlike loading, it may start threads.
        size: the dimension that a row's work grows with; None: all rows cost the same.
        batched: the first dimension of every tensor is the batch. If not, a request is one run: `forward` takes and
            returns tensors of exactly the shapes of `inputs` and of the answer.
        any_size: what examples have in a dimension that accepts any size.
        integers: the smallest and largest integer of each input in examples, such as ((0, 0),) for a count of work;
            empty: those that the model is found to take.
        expected: outputs that a configuration describes; those of the examples must fit. `expected_by` names it.
        examples: makes so many rows of each input, to trace the model and to compare answers; None: noise does.
    """

    forward: Callable[..., Any]
    inputs: tuple[TensorSpec, ...]
    platform: str
    output_names: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    image: ImageTransform | Pixels | None = None
    channels_last: bool = False
    warning: str | None = None
    max_batch: int | None = None
    finite: bool = True
    setup: Callable[[], None] | None = None
    size: RowSize | None = None
    batched: bool = True
    any_size: int = ANY_SIZE
    integers: tuple[IntegerRange, ...] = ()
    expected: tuple[TensorSpec, ...] = ()
    expected_by: str = ""
    examples: Callable[[int], list[torch.Tensor]] | None = None

    @property
    def runtime(self) -> Runtime | None:
        """What runs the network, where it is not torch."""
        forward = self.forward.network.forward if isinstance(self.forward, Staged) else self.forward
        return forward if isinstance(forward, Runtime) else None

    def laid_out(self, whole: Any) -> Any:
        """An input in the memory format that the model needs."""
        if not isinstance(whole, torch.Tensor):
            return whole
        layout = torch.channels_last if self.channels_last and whole.ndim == 4 else torch.contiguous_format
        return whole.contiguous(memory_format=layout)

    def use_threads(self, threads: int) -> int:
        """Runs the next batches of this process on `threads` threads; returns the number in force."""
        runtime = self.runtime
        wanted = threads if runtime is None else 1  # beside a runtime, torch copies inputs and outputs only
        if wanted != torch.get_num_threads():
            torch.set_num_threads(wanted)
        if runtime is None:
            return int(torch.get_num_threads())
        runtime.use_threads(threads)
        return threads

    def run(self, inputs: list[Any]) -> list[tuple[str, Output]]:
        """Named outputs of one batch. Raises ItemError when the model returns anything else.

        Args:
            inputs: one for each of the model's, in order; without rows, a batch of one row.
        """
        if not self.batched:
            return [
                (name, _one_row(output))
                for name, output in self._named([each.reshape(each.shape[1:]) for each in inputs])
            ]
        rows = len(inputs[0])
        named = []
        for name, output in self._named(inputs):
            _check_rows(name, output, rows)
            named.append((name, output))
            if isinstance(output, list):
                named.append((name + LENGTHS, torch.tensor([len(part) for part in output])))
        return named

    def _named(self, inputs: list[Any]) -> list[tuple[str, Output]]:
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
        return list(zip(names, tensors, strict=True))


class Staged(ABC):
    """A network between other stages: what makes its inputs, as a tokenizer, and what is made of its outputs.

    Attributes:
        network: tensors to tensors. Only it is converted to another runtime or number format.
    """

    network: LoadedModel

    @abstractmethod
    def __call__(self, *inputs: Any) -> Mapping[str, Output]:
        """The outputs of one batch, as `LoadedModel.forward`."""

    @abstractmethod
    def around(self, network: LoadedModel) -> Staged:
        """The same stages around another form of the network."""


def with_network(model: LoadedModel, change: Callable[[LoadedModel], LoadedModel]) -> LoadedModel:
    """Changes the network of a model: what is between its stages, or, where it has none, the model itself."""
    if not isinstance(model.forward, Staged):
        return change(model)
    network = change(model.forward.network)
    return replace(model, forward=model.forward.around(network), platform=network.platform, warning=network.warning)


def _check_rows(name: str, output: Output, rows: int) -> None:
    """Raises ItemError, with the fix, when an output is not by row."""
    if isinstance(output, list):
        if len(output) != rows or not all(_is_array(part) and part.ndim for part in output):
            raise ItemError(
                f"the model's {name} is a list of {len(output)} for {rows} rows: give one array for each row, an empty "
                "one where there is nothing"
            )
    elif not _is_array(output) or output.ndim < 1 or output.shape[0] != rows:
        shape = list(output.shape) if _is_array(output) else type(output).__name__
        raise ItemError(
            f"the model's {name} is {shape} for {rows} rows: its first dimension must be the batch, which squeeze() "
            "without a dimension drops. If each row has its own number of entries, give a list with an array for each "
            f'row, Output("{name}", ..., ragged=True) in a class. If a request is one whole, serve it with ?batch=false'
            ", or batch = False in a class"
        )


def _one_row(output: Output) -> Output:
    """An output of a model without rows, as one row. Raises ItemError."""
    if not _is_array(output):
        raise ItemError(f"the model gave {type(output).__name__}: without a batch, give tensors or arrays")
    return output[None]


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, np.ndarray) and value.dtype == object)
