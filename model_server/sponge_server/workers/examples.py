"""Example items of the right shape, for probing a model's outputs, warming up and measuring."""

from __future__ import annotations

import math
import struct
from typing import Protocol

from sponge_server.workers.interface import ANY_SIZE, DATATYPE_SIZE, Item, ModelInfo, Tensor, TensorSpec
from sponge_server.workers.row_size import RowSize
from sponge_server.workers.strings import pack_strings

__all__ = ["any_size_of", "example_item", "example_tensor"]

EXAMPLE_TEXT = b"The quick brown fox jumps over the lazy dog, and the dog does not mind at all. "
"""A string of about the same number of tokens as `ANY_SIZE`."""

_FORMAT = {"FP16": "e", "FP32": "f", "FP64": "d"}
_VALUES = [((i * 37) % 101) / 101 for i in range(101)]  # within 0..1, as pixels are; a prime length never lines up


def example_item(info: ModelInfo, rows: int, size: int | None = None) -> Item:
    """An item of `rows` rows that the model accepts: fractions for floats, zeros (valid indices) for other types.

    Args:
        size: of the rows, where the model declares one; None: its reference.
    """
    any_size = any_size_of(info) if size is None else size
    return Item(tensors=tuple(example_tensor(spec, rows, any_size, info.size) for spec in info.inputs))


class _Sized(Protocol):
    """A model, as its description or loaded."""

    @property
    def size(self) -> RowSize | None: ...

    @property
    def any_size(self) -> int: ...


def any_size_of(model: _Sized) -> int:
    """What an example has in a dimension that accepts any size."""
    return model.any_size if model.size is None else model.size.reference


def example_tensor(spec: TensorSpec, rows: int, any_size: int = ANY_SIZE, size: RowSize | None = None) -> Tensor:
    """One input of an example item.

    Args:
        any_size: stands for a dimension that accepts any size, and of the strings that `size` names for their bytes.
    """
    shape = (rows, *(any_size if size < 0 else size for size in spec.shape))
    if spec.datatype == "BYTES":
        counts = size is not None and size.input == spec.name
        text = (EXAMPLE_TEXT * -(-any_size // len(EXAMPLE_TEXT)))[:any_size] if counts else EXAMPLE_TEXT
        return Tensor(spec.name, spec.datatype, shape, pack_strings([text] * math.prod(shape)))
    total = math.prod(shape) * DATATYPE_SIZE[spec.datatype]
    letter = _FORMAT.get(spec.datatype)
    pattern = struct.pack(f"<{len(_VALUES)}{letter}", *_VALUES) if letter else b"\0"
    return Tensor(spec.name, spec.datatype, shape, (pattern * -(-total // len(pattern)))[:total])
