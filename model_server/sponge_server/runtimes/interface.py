"""Interface of a runtime that is not torch: it takes a thread count, then batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch

from sponge_server.runtimes.examples import Examples
from sponge_server.workers.interface import TensorSpec

__all__ = ["Runtime"]


class Runtime(ABC):
    """One model in a runtime. It is made in the fork server, where it opens nothing; lanes call the rest.

    Attributes:
        inputs: without the batch dimension.
        outputs: their names.
        max_batch: most rows of a batch; None: any number.
        platform: how the model runs, e.g. "onnxruntime_onnx".
        batched: the first dimension of everything is the batch.
    """

    inputs: Sequence[TensorSpec]
    outputs: Sequence[str]
    max_batch: int | None
    platform: str
    batched: bool

    @abstractmethod
    def use_threads(self, threads: int) -> None:
        """Runs the next batches of this process on `threads` >= 1 threads. The first call with a number opens it."""

    @abstractmethod
    def __call__(self, *inputs: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """The outputs of one batch, by name. Takes one tensor per input, in order."""

    @abstractmethod
    def in_dtype(self, dtype: str, examples: Examples | None) -> Runtime:
        """The same model that computes in "bf16" or "int8". Raises ModelError when the runtime cannot.

        Args:
            examples: rows that show the range of the model's numbers; None: there are none.
        """
