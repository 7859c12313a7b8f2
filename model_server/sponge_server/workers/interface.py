"""Interface of the lanes: protocols of a lane and of a pool, and the data that they exchange.

This module must not import torch, because the server's own process imports it.

An item is one request, or one row of it: n >= 1 rows of every input, where a row is one entry of the batch dimension. A
batch is several items; the sum of their rows counts against `ModelInfo.max_batch` and is the latency model's b. Items
of a batch succeed or fail one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sponge_core.errors import SpongeError
from sponge_server.workers.row_size import RowSize
from sponge_server.workers.tensors import (
    ANY_SIZE,
    DATATYPE_SIZE,
    STRING_BYTES,
    IntegerRange,
    Tensor,
    TensorSpec,
    element_bytes,
)

__all__ = [
    "ANY_SIZE",
    "DATATYPE_SIZE",
    "STRING_BYTES",
    "Allowance",
    "IntegerRange",
    "Item",
    "ItemError",
    "Lane",
    "LaneCrashed",
    "LaneError",
    "LaneHung",
    "LanePool",
    "LaneResult",
    "ModelError",
    "ModelInfo",
    "ModelSpec",
    "NotFiniteError",
    "Progress",
    "RefusedError",
    "StartLimits",
    "Tensor",
    "TensorSpec",
    "element_bytes",
]


class LaneError(SpongeError):
    """The whole batch could not be run."""


class LaneCrashed(LaneError):  # noqa: N818 - reads as what happened
    """The lane died or hung while it ran the batch; no item was answered. The pool replaces the lane."""


class LaneHung(LaneCrashed):
    """The lane did not answer within its time limit and was killed."""


class ItemError(SpongeError):
    """One item of a batch failed, because of its input or the model; the others are not affected."""


class NotFiniteError(ItemError):
    """The model answered the item with NaN or Inf."""


class RefusedError(ItemError):
    """The model's own code refused the item: its data is wrong. The message is for the client."""


class ModelError(SpongeError):
    """A model source is unknown, cannot be loaded or does not fit."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model to load: its name in the API, its source (see `models.source`), and the most rows of one batch, >= 1."""

    name: str
    source: str
    max_batch: int


@dataclass(frozen=True, slots=True)
class StartLimits:
    """Time limits of the steps of a start, in seconds; the settings of the same names explain them.

    Attributes:
        load_s: to load one model, each time the process with the models is started.
        example_s: for one example batch, and for the start of one lane.
    """

    load_s: float = 600.0
    example_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Item:
    """Either one tensor per model input, or encoded images (JPEG, PNG, WebP), one per row.

    `pixels`: of all images together, as their headers say; 0 for tensors.
    """

    tensors: tuple[Tensor, ...] = ()
    images: tuple[bytes | bytearray | memoryview, ...] = ()
    pixels: int = 0

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.images) or self.tensors[0].shape[0]

    def not_finite(self) -> str | None:
        """Name of the first input with a NaN or Inf, or None. Some models accept them, so ask only after a failure."""
        # Imported on first use: code that only parses a source need not wait for numpy.
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
    """Inputs, outputs and limits of a loaded model.

    Attributes:
        max_batch: most rows of one batch, >= 1.
        labels: names of the classes, in the order of the last dimension of the first output; None if unknown.
        accepts_images: the first input may be encoded images, which the lane decodes and normalises.
        warning: one line to log at startup; None if there is nothing to warn about.
        platform: how the model runs, e.g. "pytorch_eager" or "onnxruntime_onnx".
        size: the dimension that a row's work grows with; None: all rows cost the same.
        opened_by_threads: a lane opens the model for each thread count, at its first use.
        batched: the first dimension of a request's tensors is its rows. If not, a request is one run of the model, and
            its tensors have exactly the model's shapes; inside the server they are one row.
        any_size: what examples have in a dimension that accepts any size.
        integers: the smallest and largest integer of each input in examples; empty: they are 0.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int
    labels: tuple[str, ...] | None
    accepts_images: bool
    warning: str | None
    platform: str
    size: RowSize | None = None
    opened_by_threads: bool = False
    batched: bool = True
    any_size: int = ANY_SIZE
    integers: tuple[IntegerRange, ...] = ()

    def wire_shape(self, spec: TensorSpec) -> list[int]:
        """The shape of an input or output as clients see it."""
        return [-1, *spec.shape] if self.batched else list(spec.shape)

    def size_of(self, item: Item) -> float:
        """The size of an item's rows; 1 if all rows cost the same."""
        return 1.0 if self.size is None else self.size.of(item.tensors)

    def sizes_of(self, rows: Sequence[Item]) -> list[float]:
        """The size of each row of a request, at least one."""
        if self.size is None or not self.takes_texts:
            return [self.size_of(rows[0])] * len(rows)  # rows of one tensor have one shape
        return [self.size_of(item) for item in rows]

    @property
    def least_row_bytes(self) -> int:
        """Bytes of the inputs of one row, as tensors; a dimension of any size counts as 1."""
        return sum(
            element_bytes(spec.datatype) * math.prod(max(1, size) for size in spec.shape) for spec in self.inputs
        )

    @property
    def takes_texts(self) -> bool:
        """Whether an input is of strings."""
        return any(spec.datatype == "BYTES" for spec in self.inputs)

    def check(self, item: Item) -> None:
        """Raises ItemError, which says what to send instead, when the item does not fit this model.

        Image bytes are not decoded. `Lane.run` checks again; call this to refuse a request early. The number of rows is
        not checked: a request of more than `max_batch` rows runs in several batches.
        """
        if item.images:
            if item.tensors:
                raise ItemError("a request carries either tensors or images, not both")
            if not self.accepts_images:
                raise ItemError(f"model {self.name} takes no encoded images: send the tensors {self._wanted()}")
        else:
            self._check_tensors(item.tensors)

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
                given_shape = list(tensor.shape if self.batched else row)
                raise ItemError(f"input {spec.name} has shape {given_shape}, the model takes {self.wire_shape(spec)}")
            if spec.datatype == "BYTES":
                continue  # their number was checked where they were packed
            wanted = math.prod(tensor.shape) * DATATYPE_SIZE[spec.datatype]
            have = memoryview(tensor.data).nbytes
            if have != wanted:
                raise ItemError(f"input {spec.name} has {have} bytes, its shape and datatype need {wanted}")

    def _wanted(self) -> str:
        return ", ".join(f"{spec.name} ({spec.datatype} {self.wire_shape(spec)})" for spec in self.inputs)


@dataclass(frozen=True, slots=True)
class LaneResult:
    """Result of a batch.

    Attributes:
        outputs: one entry per item, in the given order: its output tensors, or the error.
        batch_s: wall seconds in the lane, from the message read to the outputs written, including decoding.
        cpu_s: CPU seconds of all threads of the lane over the same time: on one thread, what `batch_s` would be
            without throttling or a busy neighbour.
        threads: threads that the runtime used, read back where it tells.
    """

    outputs: tuple[tuple[Tensor, ...] | ItemError, ...]
    batch_s: float
    cpu_s: float
    threads: int


Progress = Callable[[int, int], None]
"""Called with (steps done, total steps)."""
Allowance = Callable[[int], int | None]
"""Maps the number of lanes to the bytes that each may have beyond what it started with; None: no limit."""


class Lane(Protocol):
    """One inference worker. The object stays when its process is replaced; `id` is the slot, from 0."""

    @property
    def id(self) -> int: ...

    @property
    def healthy(self) -> bool:
        """False from the end of its process until the replacement is ready."""
        ...

    @property
    def busy(self) -> bool:
        """Whether it runs a batch, also after the caller of `run` was cancelled."""
        ...

    async def run(
        self, items: Sequence[Item], threads: int, timeout_s: float | None = None, model: int = 0
    ) -> LaneResult:
        """Runs one batch on `threads` >= 1 threads.

        A lane runs one batch at a time: a second call waits for the first. Cancelling does not stop the batch.

        Args:
            model: index of the items' model in the pool's `models`.
            timeout_s: a batch that takes longer counts as hung: the lane is killed and replaced.

        Raises:
            LaneCrashed: the lane died, hung for longer than `timeout_s`, or is not healthy.
            LaneError: the batch is empty or has more rows than the model accepts.
        """
        ...


class LanePool(Protocol):
    """Lanes that share the weights of one model or several; any lane runs any of them."""

    @property
    def models(self) -> Sequence[ModelInfo]:
        """The models in the given order. Raises LaneError before `start` has returned."""
        ...

    @property
    def lanes(self) -> Sequence[Lane]:
        """Every lane in order of id, healthy or not."""
        ...

    @property
    def pids(self) -> Sequence[int]:
        """Running processes: the one with the models, then the lanes; none if lanes are not processes."""
        ...

    @property
    def lane_pids(self) -> Sequence[int]:
        """Those of `pids` that run batches."""
        ...

    def add_listener(self, callback: Callable[[], None]) -> None:
        """Calls `callback` on the event loop whenever the lanes, or the health of one, have changed."""
        ...

    async def start(self, lanes: int) -> None:
        """Loads the models and starts `lanes` >= 1 lanes.

        Raises:
            ModelError: a model cannot be loaded, or not in time; the message names it and the cause.
            LaneError: the processes could not be started.
        """
        ...

    async def scale(self, lanes: int) -> None:
        """Adds lanes, or removes those with the highest ids after their batches have ended.

        Raises LaneError or OSError when a lane cannot be added now. Those that were added stay; call it again.
        """
        ...

    async def warm_up(
        self, batches: Sequence[int], threads: Sequence[int], progress: Progress | None = None, model: int = 0
    ) -> None:
        """Runs every pair of batch size and threads once on every lane, so that no request pays for first-time set-up.

        The extremes come first, in case there is no time for all pairs. When cancelled, it waits for the running batch
        and leaves the lanes idle.

        Raises:
            ModelError: a batch failed, or took longer than an example batch may.
            LaneError: a lane was lost.
        """
        ...

    def keep(self, allowance: Allowance) -> None:
        """Limits the memory that a lane keeps after a batch; without a call there is no limit.

        It applies from the next batch on: a lane that has more then gives its free memory back to the kernel.
        """
        ...

    async def close(self) -> None:
        """Ends every process. Running batches fail with LaneCrashed. May be called twice."""
        ...
