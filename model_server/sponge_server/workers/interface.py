"""What the engine and the HTTP layer know of a lane, and nothing more.

Plain data and protocols. Must not import torch: the HTTP process imports this module and stays free of it.

An item is one request: n >= 1 rows of every input, where a row is one entry of the batch dimension. A batch is several
items; what counts against `ModelInfo.max_batch` and the latency model's b is the sum of their rows. Items of a batch
succeed or fail one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sponge_core.errors import SpongeError

__all__ = [
    "DATATYPE_SIZE",
    "Allowance",
    "Item",
    "ItemError",
    "Lane",
    "LaneCrashed",
    "LaneError",
    "LanePool",
    "LaneResult",
    "ModelError",
    "ModelInfo",
    "ModelSpec",
    "NotFiniteError",
    "Progress",
    "Tensor",
    "TensorSpec",
]

DATATYPE_SIZE: dict[str, int] = {
    "BOOL": 1,
    "UINT8": 1,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
}
"""Bytes of one element, for the Open Inference Protocol datatypes that a lane takes (little-endian, row-major)."""


class LaneError(SpongeError):
    """A batch could not be run at all."""


class LaneCrashed(LaneError):  # noqa: N818 - reads as what happened
    """The lane died or hung while it held the batch; none of its items was answered. The pool replaces the lane."""


class ItemError(SpongeError):
    """One item of a batch failed, by its own fault or the model's; the others are not affected."""


class NotFiniteError(ItemError):
    """The model answered the item with NaN or Inf."""


class ModelError(SpongeError):
    """A model source that is unknown, cannot be loaded or does not fit."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model to load: its name at the API, its source (see `models.source`), and the most rows of one batch, >= 1."""

    name: str
    source: str
    max_batch: int


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model. `shape` leaves out the batch dimension; -1 takes any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """Raw little-endian row-major bytes with a shape; the first dimension of `shape` counts the rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Item:
    """One request: either one tensor per model input, or encoded images (JPEG, PNG), one a row."""

    tensors: tuple[Tensor, ...] = ()
    images: tuple[bytes | bytearray | memoryview, ...] = ()

    @property
    def rows(self) -> int:
        """How much of the batch the item takes."""
        return len(self.images) or self.tensors[0].shape[0]

    def not_finite(self) -> str | None:
        """The first input that holds a NaN or Inf. Some models take them, so it is asked only when one has failed."""
        # At the first request: who only parses a source need not wait for it.
        import numpy as np

        from sponge_core.datatypes import NUMPY_TYPES

        for tensor in self.tensors:
            if tensor.datatype == "BF16":
                numbers = (np.frombuffer(tensor.data, "<u2").astype("<u4") << 16).view("<f4")
            elif tensor.datatype in ("FP16", "FP32", "FP64"):
                numbers = np.frombuffer(tensor.data, NUMPY_TYPES[tensor.datatype])
            else:
                continue
            if not np.isfinite(numbers).all():
                return tensor.name
        return None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model takes and gives.

    Attributes:
        max_batch: most rows of one batch, >= 1.
        labels: names of the classes, in the order of the last dimension of the first output; None when unknown.
        accepts_images: the first input may be given as encoded images, which the lane decodes and normalises.
        warning: something the user should know at start, in one line; None when all is well.
        platform: how the model runs, e.g. "pytorch_eager" or "pytorch_export".
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int
    labels: tuple[str, ...] | None
    accepts_images: bool
    warning: str | None
    platform: str

    @property
    def least_row_bytes(self) -> int:
        """Of the inputs of one row, as tensors; a dimension of any size counts as 1."""
        return sum(
            DATATYPE_SIZE[spec.datatype] * math.prod(max(1, size) for size in spec.shape) for spec in self.inputs
        )

    def check(self, item: Item) -> None:
        """Raises ItemError, saying what to send instead, when the item does not fit this model.

        Does not look into image bytes. `Lane.run` checks again, so this is for refusing a request early.
        """
        if item.images:
            if item.tensors:
                raise ItemError("a request carries either tensors or images, not both")
            if not self.accepts_images:
                raise ItemError(f"model {self.name} takes no encoded images: send the tensors {self._wanted()}")
        else:
            self._check_tensors(item.tensors)
        if item.rows > self.max_batch:
            raise ItemError(
                f"{item.rows} rows in one request, model {self.name} takes at most {self.max_batch}: split it"
            )

    def _check_tensors(self, tensors: tuple[Tensor, ...]) -> None:
        given = {tensor.name: tensor for tensor in tensors}
        if len(given) != len(tensors) or given.keys() != {spec.name for spec in self.inputs}:
            names = ", ".join(tensor.name for tensor in tensors) or "none"
            raise ItemError(f"model {self.name} needs exactly the inputs {self._wanted()}; got {names}")
        rows = {tensor.shape[0] if tensor.shape else 0 for tensor in tensors}
        if len(rows) > 1 or min(rows) < 1:
            raise ItemError(f"every input of {self.name} needs the same number of rows >= 1 in its first dimension")
        for spec in self.inputs:
            tensor = given[spec.name]
            if tensor.datatype != spec.datatype:
                raise ItemError(f"input {spec.name} has datatype {tensor.datatype}, the model takes {spec.datatype}")
            row = tensor.shape[1:]
            fits = len(row) == len(spec.shape) and all(
                d >= 1 and w in (-1, d) for w, d in zip(spec.shape, row, strict=True)
            )
            if not fits:
                raise ItemError(
                    f"input {spec.name} has shape {list(tensor.shape)}, the model takes {[-1, *spec.shape]}"
                )
            wanted = math.prod(tensor.shape) * DATATYPE_SIZE[spec.datatype]
            have = memoryview(tensor.data).nbytes
            if have != wanted:
                raise ItemError(f"input {spec.name} has {have} bytes, its shape and datatype need {wanted}")

    def _wanted(self) -> str:
        return ", ".join(f"{spec.name} ({spec.datatype} {[-1, *spec.shape]})" for spec in self.inputs)


@dataclass(frozen=True, slots=True)
class LaneResult:
    """What became of a batch.

    Attributes:
        outputs: one entry an item, in the order given: the output tensors with the item's rows, or why it failed.
        batch_s: wall seconds in the lane, from the message read to the outputs written; decoding is part of it.
        cpu_s: CPU seconds of all the lane's threads over the same span: what `batch_s` would be on one thread without
            throttling or a busy neighbour.
        threads: threads that torch really used, read back.
    """

    outputs: tuple[tuple[Tensor, ...] | ItemError, ...]
    batch_s: float
    cpu_s: float
    threads: int


Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


Allowance = Callable[[int], int | None]
"""By the number of lanes: bytes that each may have beyond what it started with; None for any number."""


class Lane(Protocol):
    """One inference worker. The object stays when its process is replaced; `id` is the slot, from 0."""

    @property
    def id(self) -> int: ...

    @property
    def healthy(self) -> bool:
        """False from the moment its process is gone until the replacement is ready."""
        ...

    @property
    def busy(self) -> bool:
        """Runs a batch now; also after the caller of `run` was cancelled, until the batch ends."""
        ...

    async def run(
        self, items: Sequence[Item], threads: int, timeout_s: float | None = None, model: int = 0
    ) -> LaneResult:
        """Runs one batch on `threads` >= 1 threads.

        A lane runs one batch at a time: a second call waits for the first. Cancelling does not stop the batch.

        Args:
            model: which one of the pool's `models` all the items are for.
            timeout_s: a batch that takes longer is taken for hung: the lane is killed and replaced.

        Raises:
            LaneCrashed: the lane died, or hung past `timeout_s`, or is not healthy.
            LaneError: the batch is empty or has more rows than the model takes.
        """
        ...


class LanePool(Protocol):
    """Lanes that share the weights of one model or several; any lane runs any of them."""

    @property
    def models(self) -> Sequence[ModelInfo]:
        """In the order that they were given in; known once `start` returned, LaneError before."""
        ...

    @property
    def lanes(self) -> Sequence[Lane]:
        """Every lane in order of id, healthy or not."""
        ...

    @property
    def pids(self) -> Sequence[int]:
        """Processes that run now: the one with the models, then the lanes'; none where lanes are not processes."""
        ...

    def add_listener(self, callback: Callable[[], None]) -> None:
        """`callback` runs on the loop whenever the lanes, or the health of one, have changed: time to decide again."""
        ...

    async def start(self, lanes: int) -> None:
        """Loads the models and starts `lanes` >= 1 lanes.

        Raises:
            ModelError: a model does not load; which one, with the cause.
            LaneError: the processes could not be started.
        """
        ...

    async def scale(self, lanes: int) -> None:
        """Adds lanes, or removes those with the highest ids once their batches have ended."""
        ...

    async def warm_up(
        self, batches: Sequence[int], threads: Sequence[int], progress: Progress | None = None, model: int = 0
    ) -> None:
        """Runs every (batch, threads) of a model once on every lane, so that no request pays for first-time set-up.

        Cancelled, it ends with the batch that runs then and leaves the lanes idle.
        """
        ...

    def keep(self, allowance: Allowance) -> None:
        """How much memory a lane may keep for its next batch; at first it may keep all.

        Holds from the next batch on: one that leaves its lane with more makes it give back to the kernel what is free.
        """
        ...

    async def close(self) -> None:
        """Ends every process. Batches that still run fail with LaneCrashed. May be called twice."""
        ...
