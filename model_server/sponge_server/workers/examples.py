"""Made-up items of the right shape, for probing a model's outputs, warming up, measuring and checking.

They should show what real requests do. Equal numbers everywhere would not: a model may read one row of a table for all
of them, and find that row in a cache. So they are noise, the same in every process.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Sequence
from typing import Protocol

from sponge_server.workers.interface import ANY_SIZE, DATATYPE_SIZE, IntegerRange, Item, ModelInfo, Tensor, TensorSpec
from sponge_server.workers.row_size import RowSize
from sponge_server.workers.strings import pack_strings

__all__ = ["any_size_of", "example_item", "example_tensor"]

EXAMPLE_TEXT = b"The quick brown fox jumps over the lazy dog, and the dog does not mind at all. "
"""A string of about the same number of tokens as `ANY_SIZE`."""

_FRACTIONS = {"FP16": "e", "BF16": "f", "FP32": "f", "FP64": "d"}
_INTEGERS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
}
"""The formats of `struct`: the server's own process has no numpy."""

_BLOCK = 4099
"""Noise repeats after so many fractions, because they take time to make; a prime length never lines up."""


def example_item(info: ModelInfo, rows: int, size: int | None = None, seed: int = 0) -> Item:
    """An item of `rows` rows that the model accepts.

    Fractions are from 0 to 1, as pixels are, and differ by row. Integers are of the range that the model was found to
    take (`ModelInfo.integers`), and the same in each row, because one row of them is what it was tried with.

    Args:
        size: of the rows, where the model declares one; None: its reference.
        seed: other numbers for every seed.
    """
    any_size = any_size_of(info) if size is None else size
    ranges = info.integers or ((0, 0),) * len(info.inputs)
    return Item(
        tuple(
            example_tensor(spec, rows, any_size, info.size, integers, seed)
            for spec, integers in zip(info.inputs, ranges, strict=True)
        )
    )


class _Sized(Protocol):
    """A model, as its description or loaded."""

    @property
    def size(self) -> RowSize | None: ...

    @property
    def any_size(self) -> int: ...


def any_size_of(model: _Sized) -> int:
    """What an example has in a dimension that accepts any size."""
    return model.any_size if model.size is None else model.size.reference


def example_tensor(
    spec: TensorSpec,
    rows: int,
    any_size: int = ANY_SIZE,
    size: RowSize | None = None,
    integers: IntegerRange = (0, 0),
    seed: int = 0,
) -> Tensor:
    """One input of an example item.

    Args:
        any_size: stands for a dimension that accepts any size, and of the strings that `size` names for their bytes.
        integers: the smallest and the largest, where the input is of integers.
        seed: as in `example_item`.
    """
    shape = (rows, *(any_size if size < 0 else size for size in spec.shape))
    if spec.datatype == "BYTES":
        counts = size is not None and size.input == spec.name
        text = (EXAMPLE_TEXT * -(-any_size // len(EXAMPLE_TEXT)))[:any_size] if counts else EXAMPLE_TEXT
        return Tensor(spec.name, spec.datatype, shape, pack_strings([text] * math.prod(shape)))
    draw = random.Random(f"{spec.name} {seed}")
    total = math.prod(shape)
    if spec.datatype in _FRACTIONS:
        data = _fractions([draw.random() for _ in range(min(total, _BLOCK))], spec.datatype)
    else:
        row = [draw.randint(*integers) for _ in range(math.prod(shape[1:]))]
        data = struct.pack(f"<{len(row)}{_INTEGERS[spec.datatype]}", *row)
    total_bytes = total * DATATYPE_SIZE[spec.datatype]
    return Tensor(spec.name, spec.datatype, shape, (data * -(-total_bytes // max(1, len(data))))[:total_bytes])


def _fractions(values: Sequence[float], datatype: str) -> bytes:
    data = struct.pack(f"<{len(values)}{_FRACTIONS[datatype]}", *values)
    if datatype != "BF16":
        return data
    upper = bytearray(len(data) // 2)  # of each number in 32 bits
    upper[0::2], upper[1::2] = data[2::4], data[3::4]
    return bytes(upper)
