"""Your own model: subclass `Model`, and serve it with `python://module:Class?key=value`.

A lane runs the four steps of the class: `setup` once, then `preprocess`, `predict` and `postprocess` for each batch.
Import this module in your own code; it does not import torch.

    class Doubled(Model):
        inputs = (Input("x", "FP32", (4,)),)

        def predict(self, batch):
            return {"doubled": batch["x"] * 2}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from sponge_server.workers.interface import RefusedError, TensorSpec
from sponge_server.workers.row_size import RowSize

__all__ = ["Input", "InputError", "Model", "Output", "RowSize"]

Input = TensorSpec
Output = TensorSpec
"""One input or output: its name, its Open Inference Protocol datatype, and the shape of a row; -1 means any size.

With `ragged=True`, the rows of a batch may differ in size: a step gets or gives a list with one array for each row.
A client gets a ragged output as the entries of all its rows in one tensor, whose first dimension is their number, and
beside it NAME_lengths, the number of entries of each row.
"""

InputError = RefusedError
"""Raise it in a step when the client's data is wrong. The client gets its text, with HTTP status 422."""


class Model:
    """A model of your own.

    `__init__` takes the options of the source as keyword arguments; annotate them with int, float, bool, str or Path.
    It runs once, before the lanes are forked: what it loads, all lanes share. It must not start threads. The four steps
    run in a lane. What they raise is the error of that request: the batch is run again, each request alone.

    Attributes:
        inputs: what a request must have, at least one.
        outputs: the outputs in order: an `Output`, or a name if datatype and shape follow from the answer. None: the
            names of the mapping that `postprocess` returns, or output, output_1, ...
        labels: names of the classes, in the order of the last dimension of the first output.
        max_batch: most rows of one batch; None: any number.
        finite: whether NaN and Inf in an output are errors of their rows.
        size: the dimension that a row's work grows with, as the tokens of a text; None: all rows cost the same.
        batch: whether requests share batches, with the rows as the first dimension of everything. If False, a request
            is one run of its own: inputs and outputs have no rows, and come and go in the shapes that are declared.
        image: "RGB" or "L": the only input may come as encoded images, which are decoded and turned upright. It is
            UINT8, height x width x 3, or height x width for "L", with -1 for both; ragged, unless all have one size.
    """

    inputs: tuple[Input, ...] = ()
    outputs: tuple[str | Output, ...] | None = None
    labels: tuple[str, ...] | None = None
    max_batch: int | None = None
    finite: bool = True
    size: RowSize | None = None
    batch: bool = True
    image: Literal["RGB", "L"] | None = None
    steps: ClassVar[tuple[str, ...]] = ("preprocess", "predict", "postprocess")

    def setup(self) -> None:
        """Prepares a lane, before its first batch. Here a library may start threads, or open files and connections."""

    def preprocess(self, inputs: dict[str, Any]) -> Any:
        """What `predict` gets, by default `inputs` itself.

        Args:
            inputs: numpy arrays by name, with the batch as the first dimension; of a ragged input, a list with an array
                for each row. Strings (BYTES) are arrays of `bytes` objects, BF16 comes as torch tensors.
        """
        return inputs

    def predict(self, batch: Any) -> Any:
        """The model itself. The lane has set the number of torch's threads for this batch."""
        raise NotImplementedError(f"write {type(self).__name__}.predict(self, batch)")

    def postprocess(self, result: Any) -> Mapping[str, Any] | Any:
        """The answer, by default what `predict` returned.

        Returns:
            Arrays by name, a sequence of them, or one: torch tensors, numpy arrays or nested lists of numbers or
            strings. The first dimension of each is the batch, in the order of the inputs' rows; a ragged output is a
            list with an array for each row, an empty one where there is nothing.
        """
        return result
