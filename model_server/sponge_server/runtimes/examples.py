"""Example rows of a model, from a file of numpy: for the range of its numbers in int8, and to compare its answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sponge_core.datatypes import NUMPY_TYPES
from sponge_server.workers.interface import ModelError, TensorSpec

__all__ = ["Examples"]

_LEAST_ROWS = 4


@dataclass(frozen=True, slots=True)
class Examples:
    """A file of example rows.

    Attributes:
        path: `.npz` with an array for each input, by name, or `.npy` for a model with one input.
        inputs: of the model.
    """

    path: Path
    inputs: tuple[TensorSpec, ...]

    def read(self) -> list[npt.NDArray[Any]]:
        """The rows of each input, in order, in the types of the model.

        Raises ModelError when the file does not fit the model; the message says what it should hold.
        """
        try:
            loaded = np.load(self.path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            text = "it does not exist" if isinstance(error, FileNotFoundError) else str(error).partition("\n")[0]
            raise ModelError(
                f"the examples '{self.path}' cannot be read ({text}): save them with numpy.savez"
            ) from None
        single = isinstance(loaded, np.ndarray)
        given = {self.inputs[0].name: loaded} if single else {name: loaded[name] for name in loaded.files}
        rows = {len(array) if array.ndim else 0 for array in given.values()}
        fits = given.keys() == {spec.name for spec in self.inputs} and len(rows) == 1 and min(rows) >= _LEAST_ROWS
        if not fits or not all(_fits(given[spec.name].shape[1:], spec.shape) for spec in self.inputs):
            has = ", ".join(f"{name} {list(array.shape)}" for name, array in given.items()) or "nothing"
            wanted = ", ".join(f"{spec.name} {[-1, *spec.shape]}" for spec in self.inputs)
            raise ModelError(
                f"the examples '{self.path}' hold {has}; the model takes {wanted}, at least {_LEAST_ROWS} rows of each"
            )
        return [given[spec.name].astype(NUMPY_TYPES[spec.datatype]) for spec in self.inputs]


def _fits(row: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(row) == len(shape) and all(wanted in (-1, size) for wanted, size in zip(shape, row, strict=True))
