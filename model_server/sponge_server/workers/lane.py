"""The server's side of one lane: hands a batch over through shared memory, waits for the answer, notices a crash.

It runs on the event loop and never blocks it. The pool forks, kills and replaces processes; a lane only asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sponge_server.workers.interface import (
    DATATYPE_SIZE,
    Item,
    ItemError,
    LaneCrashed,
    LaneError,
    LaneHung,
    LaneResult,
    ModelInfo,
    NotFiniteError,
    RefusedError,
    Tensor,
    element_bytes,
)
from sponge_server.workers.ipc import Message, SharedMemory, aligned, pack, read_message
from sponge_system.logs import event

__all__ = ["WorkerLane"]

_log = logging.getLogger("sponge.lanes")

KEPT_BYTES = 16 << 20
"""Shared memory that a lane keeps between two batches beyond that of its largest batch of tensors. Encoded images and
dimensions of any size may need more for a moment."""

_DEATH_S = 5.0
"""A process that was told to end is given up after this time, even if nothing says that it has ended."""


@dataclass(slots=True)
class _Exchange:
    """A batch that the lane's process runs now. `sent` maps the process's item numbers to the caller's."""

    items: Sequence[Item]
    sent: list[int]
    refused: dict[int, ItemError]
    done: asyncio.Future[LaneResult]
    watchdog: asyncio.TimerHandle | None = None


class WorkerLane:
    """Implements `interface.Lane`. `connect` gives it a new process; the object and its id stay."""

    def __init__(
        self,
        lane: int,
        models: Sequence[ModelInfo],
        on_change: Callable[[WorkerLane], None],
        kill: Callable[[int], None],
    ) -> None:
        """Allocates shared memory for a full batch of the largest of `models`.

        Args:
            on_change: called when the lane's health changed.
            kill: called with the id of a process of this lane to end; the lane notices the end at its socket, or is
                told with `process_ended`.
        """
        self._id = lane
        self._models = models
        self._on_change = on_change
        self._kill = kill
        self.keep_bytes: int | None = None  # of memory after its next batch, see `interface.LanePool.keep`
        self.pid: int | None = None
        self.crashes = 0  # in a row, without a successful batch in between
        self._kept = (
            max(_size_of(info, info.inputs) for info in models),
            max(_size_of(info, info.outputs) for info in models),
        )
        self.inputs = SharedMemory.create(f"sponge-lane-{lane}-in", self._kept[0])
        try:
            self.outputs = SharedMemory.create(f"sponge-lane-{lane}-out", self._kept[1])
        except BaseException:
            self.inputs.close()
            raise
        self._sock: socket.socket | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._healthy = False
        self._batch: _Exchange | None = None
        self._hung_for_s: float | None = None
        self._not_forked: str | None = None
        self._told = asyncio.Event()  # whether the process was forked, or its fork server has ended

    @property
    def id(self) -> int:
        return self._id

    @property
    def healthy(self) -> bool:
        return self._healthy and self._hung_for_s is None

    @property
    def busy(self) -> bool:
        return self._batch is not None

    async def connect(self, sock: socket.socket) -> None:
        """Takes over a new process at the other end of `sock`, which it owns; returns when it can run batches.

        Raises LaneCrashed when the process ends before that.
        """
        self._hung_for_s = self._not_forked = None
        self._told.clear()
        self._sock = sock
        try:
            reader, self._writer = await asyncio.open_unix_connection(sock=sock)
            first = await read_message(reader)
            if first is None:
                await self._told.wait()
        except BaseException:
            self._give_up_start()
            raise
        if first is None:
            self._give_up_start()
            if self._not_forked is not None:
                raise LaneError(f"lane {self._id} could not be forked: {self._not_forked}")
            raise LaneCrashed(f"lane {self._id} ended while it was starting; its output is in the log")
        self.pid = first["ready"]
        self._healthy = True
        self._listening = asyncio.create_task(self._listen(reader), name=f"lane-{self._id}")
        self._on_change(self)

    async def run(
        self, items: Sequence[Item], threads: int, timeout_s: float | None = None, model: int = 0
    ) -> LaneResult:
        """See `interface.Lane.run`."""
        info = self._models[model]
        batch = self._checked(items, threads, info)
        if not batch.sent:
            outputs = tuple(batch.refused[index] for index in range(len(items)))
            return LaneResult(outputs, batch_s=0.0, cpu_s=0.0, threads=threads)
        await self.settled()
        if not self.healthy or self._writer is None:
            raise LaneCrashed(f"lane {self._id} is being replaced")
        try:
            described = self._put([items[index] for index in batch.sent], info)
        except OSError as error:
            raise LaneError(f"the batch cannot be handed to lane {self._id}: {error.strerror}") from None
        self._batch = batch
        if timeout_s is not None:
            batch.watchdog = asyncio.get_running_loop().call_later(timeout_s, self._on_hang, timeout_s)
        self._writer.write(pack({"model": model, "items": described, "threads": threads, "keep": self.keep_bytes}))
        # A cancelled caller does not stop the batch, because other requests are in it.
        return await asyncio.shield(batch.done)

    def forked(self, pid: int) -> None:
        """The process that `connect` waits for exists."""
        self.pid = pid
        self._told.set()

    def not_forked(self, error: str) -> None:
        """The process that `connect` waits for could not be made."""
        self._not_forked = error
        self._told.set()
        self._hang_up()

    def process_ended(self, pid: int | None = None) -> None:
        """Its process has ended: what it has sent is still read, then a running batch fails.

        The socket alone may not show that, because children of the process hold its other end too.

        Args:
            pid: the process; None: whatever process it had.
        """
        if pid is None or pid == self.pid:
            self._told.set()
            self._hang_up()

    async def settled(self) -> None:
        """Waits until no batch runs."""
        while self._batch is not None:
            await asyncio.wait([self._batch.done])

    async def close(self) -> None:
        """Ends the lane now; a running batch fails."""
        self._healthy = False
        if self._listening is not None:
            self._listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listening
            self._listening = None
        if self.pid is not None:
            self._kill(self.pid)  # it would leave by itself, unless it hangs
        self._disconnect(f"lane {self._id} was closed")
        self.inputs.close()
        self.outputs.close()

    def _checked(self, items: Sequence[Item], threads: int, info: ModelInfo) -> _Exchange:
        if threads < 1:
            raise LaneError(f"{threads} threads requested: a batch needs at least 1")
        sent: list[int] = []
        refused: dict[int, ItemError] = {}
        for index, item in enumerate(items):
            try:
                info.check(item)
                sent.append(index)
            except ItemError as error:
                refused[index] = error
        rows = sum(items[index].rows for index in sent)
        if not items or rows > info.max_batch:
            raise LaneError(f"a batch of {rows} rows: {info.name} takes 1 to {info.max_batch}")
        done: asyncio.Future[LaneResult] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_seen)
        return _Exchange(items, sent, refused, done)

    def _put(self, items: Sequence[Item], info: ModelInfo) -> list[Message]:
        """Copies the items' bytes to shared memory; returns their places."""
        described: list[Message] = []
        blobs: list[tuple[int, memoryview]] = []
        end = 0

        def place(data: bytes | bytearray | memoryview) -> tuple[int, int]:
            nonlocal end
            start = aligned(end)
            view = memoryview(data).cast("B")
            blobs.append((start, view))
            end = start + view.nbytes
            return start, view.nbytes

        for item in items:
            if item.images:
                described.append({"images": [place(image) for image in item.images]})
            else:
                by_name = {tensor.name: tensor for tensor in item.tensors}
                ordered = [by_name[spec.name] for spec in info.inputs]
                described.append({"tensors": [(*place(tensor.data), tensor.shape) for tensor in ordered]})
        self.inputs.grow(end)
        for start, view in blobs:
            self.inputs.map[start : start + view.nbytes] = view
        return described

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        why = "died"
        try:
            while (answer := await read_message(reader)) is not None:
                self._finish(answer)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the batch must get an answer
            event(_log, "lane.answer_unreadable", logging.ERROR, lane=self._id, error=repr(error))
            why = f"gave an answer that cannot be read ({type(error).__name__})"
        self._healthy = False
        self.crashes += 1
        if self.pid is not None:
            self._kill(self.pid)  # nothing, if it has ended
        if self._hung_for_s is not None:
            why = f"hung for {self._hung_for_s:g} s and was killed"
        self._disconnect(f"lane {self._id} {why} while it ran the batch; it is being replaced")
        self._listening = None
        self._on_change(self)

    def _finish(self, answer: Message) -> None:
        batch = self._batch
        if batch is None:
            return
        outputs: dict[int, tuple[Tensor, ...] | ItemError] = dict(batch.refused)
        self.outputs.fit()
        for group in answer["groups"]:
            row = 0
            for number in group["items"]:
                index = batch.sent[number]
                rows = batch.items[index].rows
                try:
                    outputs[index] = tuple(self._rows(output, row, rows) for output in group["outputs"])
                except ItemError as error:
                    outputs[index] = error
                row += rows
        for number, message in answer["errors"].items():
            kind = RefusedError if int(number) in answer["refused"] else ItemError
            outputs[batch.sent[int(number)]] = kind(message)
        for number, name in answer["not_finite"].items():  # last, because these items have outputs too
            text = f"the model gave NaN or Inf in its output '{name}' for this request"
            outputs[batch.sent[int(number)]] = NotFiniteError(text)
        result = LaneResult(
            outputs=tuple(outputs[index] for index in range(len(batch.items))),
            batch_s=answer["batch_s"],
            cpu_s=answer["cpu_s"],
            threads=answer["threads"],
        )
        self._batch = None
        self.crashes = 0
        if batch.watchdog is not None:
            batch.watchdog.cancel()
        if not batch.done.done():
            batch.done.set_result(result)
        for memory, kept in zip((self.inputs, self.outputs), self._kept, strict=True):
            if memory.size > kept + KEPT_BYTES:
                memory.give_back(kept + KEPT_BYTES)
        if self._hung_for_s is not None:
            self._hang_up()  # it was told to end, and no other batch may find out whether it does

    def _rows(self, output: dict[str, Any], first: int, rows: int) -> Tensor:
        """Copies an item's rows, because the next batch overwrites them. Raises ItemError if they cannot be joined."""
        if (shapes := output.get("shapes")) is not None:  # ragged: every row has a shape
            mine = shapes[first : first + rows]
            count, shape = sum(each[0] for each in mine), tuple(mine[0][1:])
            if any(tuple(each[1:]) != shape for each in mine):
                text = f"the rows of its output {output['name']} differ in more than their number of entries"
                raise ItemError(f"{text}: send each row in a request of its own")
        else:
            count, shape = rows, tuple(output["shape"][1:])
        if (ends := output.get("ends")) is not None:  # rows of different lengths
            start = output["start"]
            data = bytes(self.outputs.map[start + ends[first] : start + ends[first + rows]])
            return Tensor(output["name"], output["datatype"], (count, *shape), data)
        row_size = DATATYPE_SIZE[output["datatype"]]
        for size in shape:
            row_size *= size
        start = output["start"] + first * row_size
        data = bytes(self.outputs.map[start : start + rows * row_size])
        return Tensor(output["name"], output["datatype"], (rows, *shape), data)

    def _on_hang(self, timeout_s: float) -> None:
        self._hung_for_s = timeout_s
        if self.pid is not None:
            self._kill(self.pid)
        if self._batch is not None:
            self._batch.watchdog = asyncio.get_running_loop().call_later(_DEATH_S, self._hang_up)

    def _give_up_start(self) -> None:
        self._hang_up()  # a process that nobody listens to leaves
        if self.pid is not None:
            self._kill(self.pid)
        self._disconnect("")

    def _hang_up(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def _disconnect(self, why: str) -> None:
        batch, self._batch = self._batch, None
        if batch is not None:
            if batch.watchdog is not None:
                batch.watchdog.cancel()
            if not batch.done.done():
                batch.done.set_exception(LaneCrashed(why) if self._hung_for_s is None else LaneHung(why))
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._sock = None
        self.pid = None


def _size_of(info: ModelInfo, specs: Sequence[Any]) -> int:
    """Bytes of a full batch. A dimension of any size counts as 1; the memory grows when necessary."""
    total = 0
    for spec in specs:
        size = element_bytes(spec.datatype) * info.max_batch
        for dimension in spec.shape:
            size *= max(1, dimension)
        total = aligned(total) + size
    return total


def _seen(done: asyncio.Future[LaneResult]) -> None:
    if not done.cancelled():
        done.exception()  # marks it as seen: the caller may have been cancelled
