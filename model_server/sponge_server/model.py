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
from typing import Any, ClassVar

from sponge_server.workers.interface import RefusedError, TensorSpec
from sponge_server.workers.row_size import RowSize

__all__ = ["Input", "InputError", "Model", "RowSize"]

Input = TensorSpec
"""One input: its name, its Open Inference Protocol datatype, and its shape without the batch; -1 means any size."""

InputError = RefusedError
"""Raise it in a step when the client's data is wrong. The client gets its text, with HTTP status 422."""


class Model:
    """A model of your own.

    `__init__` takes the options of the source as keyword arguments; annotate them with int, float, bool, str or Path.
    It runs once, before the lanes are forked: what it loads, all lanes share. It must not start threads. The four steps
    run in a lane. What they raise is the error of that request: the batch is run again, each request alone.

    Attributes:
        inputs: what a request must have, at least one.
        outputs: names of the outputs, when `postprocess` returns a sequence; None: output, output_1, ...
        labels: names of the classes, in the order of the last dimension of the first output.
        max_batch: most rows of one batch; None: any number.
        finite: whether NaN and Inf in an output are errors of their rows.
        size: the dimension that a row's work grows with, as the tokens of a text; None: all rows cost the same.
    """

    inputs: tuple[Input, ...] = ()
    outputs: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    max_batch: int | None = None
    finite: bool = True
    size: RowSize | None = None
    steps: ClassVar[tuple[str, ...]] = ("preprocess", "predict", "postprocess")

    def setup(self) -> None:
        """Prepares a lane, before its first batch. Here a library may start threads, or open files and connections."""

    def preprocess(self, inputs: dict[str, Any]) -> Any:
        """What `predict` gets, by default `inputs` itself.

        Args:
            inputs: numpy arrays by name, with the batch as the first dimension. Strings (BYTES) are arrays of `bytes`
                objects, BF16 comes as torch tensors.
        """
        return inputs

    def predict(self, batch: Any) -> Any:
        """The model itself. The lane has set the number of torch's threads for this batch."""
        raise NotImplementedError(f"write {type(self).__name__}.predict(self, batch)")

    def postprocess(self, result: Any) -> Mapping[str, Any] | Any:
        """The answer, by default what `predict` returned.

        Returns:
            Arrays by name, a sequence of them, or one: torch tensors, numpy arrays or nested lists of numbers or
            strings. The first dimension of each is the batch, in the order of the inputs' rows.
        """
        return result
