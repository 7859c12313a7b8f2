"""Tensors as plain data, and what describes them. This module must not import torch.

`workers.interface` exports all of it; import it from there.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ANY_SIZE", "DATATYPE_SIZE", "STRING_BYTES", "IntegerRange", "Tensor", "TensorSpec", "element_bytes"]

ANY_SIZE = 16
"""What examples have in a dimension that accepts any size, unless the model runs with larger ones only."""

DATATYPE_SIZE: dict[str, int] = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
}
"""Bytes of one element, for the Open Inference Protocol datatypes that a lane accepts (little-endian, row-major)."""

IntegerRange = tuple[int, int]
"""The smallest and the largest integer that examples have in an input."""

STRING_BYTES = 4096
"""What a string (BYTES) counts as where memory is planned before any has come: half a page of text is shorter."""


def element_bytes(datatype: str) -> int:
    """Bytes of one element, of strings too."""
    return DATATYPE_SIZE.get(datatype, STRING_BYTES)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        datatype: of the Open Inference Protocol; BYTES is for strings.
        shape: of a row, without the batch dimension; of a request, where the model has no rows. -1 means any size.
        ragged: the rows of a batch may differ in size. A class takes such an input, and gives such an output, as a list
            with one array for each row.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    ragged: bool = False


@dataclass(frozen=True, slots=True)
class Tensor:
    """Raw little-endian row-major bytes with a shape; the first dimension of `shape` is the number of rows.

    Strings (BYTES) are as in `workers.strings`.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview
