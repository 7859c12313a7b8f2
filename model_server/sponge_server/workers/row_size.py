"""The size of a row, for models whose work differs from request to request: tokens of a text, samples of a sound.

A model declares which dimension counts; the server reads it from each request's tensors, profiles the model over the
range, and batches near sizes. This module must not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sponge_core.errors import SpongeError
from sponge_server.workers.tensors import TensorSpec

__all__ = ["RowSize", "RowSizeError"]


_PREFIX_BYTES = 4
"""Length of a string, before each in the protocol's binary form."""


class RowSizeError(SpongeError):
    """A model declares a size that its inputs do not have."""


class _Named(Protocol):
    """A tensor, with the batch as its first dimension, or the description of one, without."""

    @property
    def name(self) -> str: ...

    @property
    def datatype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


class _Filled(_Named, Protocol):
    """A tensor with its data."""

    @property
    def data(self) -> bytes | bytearray | memoryview: ...


@dataclass(frozen=True, slots=True)
class RowSize:
    """The dimension that a row's work grows with. Of an input of strings, it is the bytes of the text.

    Attributes:
        input: name of an input.
        most: the largest size that is measured; larger requests are served, by extrapolation.
        least: the smallest size that is measured, >= 1.
        axis: which dimension of a row counts, 0 for the first after the batch. The input's shape has -1 there.
        pad: fills shorter rows up to the longest in their batch, in every input whose shape has -1 at `axis`. Give it
            only if the model's outputs do not depend on it, as with an attention mask, and do not have that dimension.
            None: rows of different sizes share a batch only if the input is ragged. Of a ragged one it says that the
            model itself fills up the rows of its list. Strings are never filled up: with any value, the model
            pads its tokens itself.
        cut: larger rows cost what `most` costs, because the model cuts them.
    """

    input: str
    most: int
    least: int = 1
    axis: int = 0
    pad: float | None = None
    cut: bool = False

    def join(self, inputs: Sequence[TensorSpec]) -> Literal["padded", "ragged", "alike"]:
        """What a batch of several sizes costs, as in `SizeCurve`."""
        if self.pad is not None:
            return "padded"
        return "ragged" if any(spec.ragged for spec in inputs if spec.name == self.input) else "alike"

    @property
    def reference(self) -> int:
        """The size of examples: the geometric mean of the range."""
        return round(math.sqrt(self.least * self.most))

    @property
    def measured(self) -> list[int]:
        """Five sizes over the range, each about so many times the one before."""
        steps = range(5)
        return sorted({round(self.least * (self.most / self.least) ** (step / steps[-1])) for step in steps})

    def of(self, tensors: Sequence[_Filled]) -> float:
        """The size of a row of a request's tensors, at least 1; of several strings, the longest may be larger."""
        for tensor in tensors:
            if tensor.name == self.input:
                texts = tensor.datatype == "BYTES"
                size = len(tensor.data) / tensor.shape[0] - _PREFIX_BYTES if texts else tensor.shape[1 + self.axis]
                return float(max(1, min(size, self.most) if self.cut else size))
        return 1.0

    def padded(self, spec: TensorSpec) -> bool:
        """Whether rows of this input are filled up. Those of a ragged one come as they are."""
        whole = spec.datatype == "BYTES" or spec.ragged
        return self.pad is not None and not whole and self.axis < len(spec.shape) and spec.shape[self.axis] < 0

    def check(self, inputs: Sequence[_Named]) -> None:
        """Raises RowSizeError, which says what to declare instead, when the inputs have no such dimension."""
        spec = next((spec for spec in inputs if spec.name == self.input), None)
        if spec is None:
            names = ", ".join(spec.name for spec in inputs)
            raise RowSizeError(f"its size is declared by an input '{self.input}'; its inputs are {names}: name one")
        if spec.datatype != "BYTES" and not (0 <= self.axis < len(spec.shape) and spec.shape[self.axis] < 0):
            raise RowSizeError(
                f"its size is dimension {self.axis} of input '{self.input}', whose rows have shape {list(spec.shape)}: "
                "choose an axis that is -1 there"
            )
        if not 1 <= self.least < self.most:
            raise RowSizeError(f"its sizes go from {self.least} to {self.most}: make least at least 1, and most larger")
