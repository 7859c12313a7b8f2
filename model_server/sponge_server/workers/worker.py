"""Worker process of a lane: waits for a batch, runs it on the chosen threads, writes the outputs to shared memory.

It runs in a process forked from the fork server, on its only Python thread. The thread count of a model applies to the
calling thread only, so it must be set here, between two batches.
"""

from __future__ import annotations

import itertools
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from sponge_server.models.example_rows import example_inputs
from sponge_server.models.loaded import TORCH_DTYPE, LoadedModel, Output, datatype_of, string_array
from sponge_server.workers.allocator import give_back, held_bytes
from sponge_server.workers.interface import ItemError, RefusedError
from sponge_server.workers.ipc import SharedMemory, aligned, receive, send
from sponge_server.workers.strings import pack_strings
from sponge_system.oom_score import FORK_SERVER, LANE, raise_oom_score

__all__ = ["serve"]

_MESSAGE_LIMIT = 300  # characters of an error; a message of torch can have pages

_DECODE_BYTES = 16 << 20
"""Memory that an image may always take while it is decoded. Part of the reserve; a photograph needs less."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """An item as tensors, one per input; of ragged images, a list of them."""

    index: int
    rows: int
    inputs: list[Any]


def serve(models: Sequence[LoadedModel], sock: socket.socket, inputs: SharedMemory, outputs: SharedMemory) -> None:
    """Runs batches until the server closes the socket. A first batch, which is slow, runs before the lane is ready."""
    raise_oom_score(LANE - FORK_SERVER)
    at_start = held_bytes()
    pid = os.getpid()
    for model in models:
        if model.setup is not None:
            model.setup()
        model.run(example_inputs(model, 1))
    _only_in(pid)
    send(sock, {"ready": pid})
    while (received := receive(sock)) is not None:
        request = received[0]
        wall, cpu = time.perf_counter(), time.process_time()
        model = models[request["model"]]
        threads = model.use_threads(request["threads"])
        inputs.fit()
        answer = _run_batch(model, request["items"], inputs, outputs, partial(_fits, request["keep"], at_start))
        answer |= {
            "threads": threads,
            "cpu_s": time.process_time() - cpu,
            "batch_s": time.perf_counter() - wall,
        }
        _only_in(pid)
        send(sock, answer)
        if answer["errors"] and _worn_out():
            print("the model has used up files or threads: the lane starts afresh", file=sys.stderr)
            return
        # After the answer, so that only a batch that follows at once waits for it.
        if request["keep"] is not None and held_bytes() - at_start > request["keep"]:
            give_back()


def _fits(keep: int | None, at_start: int, need: int) -> bool:
    """Whether the process may take `need` more bytes for a moment. It may hold `keep` beyond what it started with."""
    if keep is None or need <= _DECODE_BYTES:
        return True
    if held_bytes() - at_start + need > keep:
        give_back()
    return held_bytes() - at_start + need <= keep


def _only_in(pid: int) -> None:
    """Ends every other process: where a model forks, its fork comes back from the model too, but it is no lane."""
    if os.getpid() != pid:
        os._exit(0)


def _worn_out() -> bool:
    """Whether this process can open no more files, or start no more threads: its model would fail from now on."""
    try:
        os.close(os.dup(sys.stderr.fileno()))
        thread = threading.Thread(target=bool)
        thread.start()
        thread.join()
    except (OSError, RuntimeError):
        return True
    return False


def _run_batch(
    model: LoadedModel,
    items: Sequence[dict[str, Any]],
    inputs: SharedMemory,
    outputs: SharedMemory,
    fits: Callable[[int], bool],
) -> dict[str, Any]:
    """Outputs by group of items that ran together, errors by item, items that the model refused, and the name of a
    non-finite output by item."""
    ready, errors = _prepare(model, items, inputs, fits)
    not_finite: dict[int, str] = {}
    refused: list[int] = []
    groups: list[dict[str, Any]] = []
    end = 0
    # Rows of different sizes cannot share a tensor. If the model accepts any size, they run one after another, unless
    # it says what fills up the shorter ones.
    by_shape: dict[tuple[tuple[int, ...], ...], list[_Ready]] = {}
    for item in ready:
        by_shape.setdefault(_joint_shapes(model, item), []).append(item)
    pending = list(by_shape.values())
    while pending:
        group = pending.pop(0)
        try:
            named = model.run(_joined(group, model))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a model raises is the error of its items
            if len(group) > 1:
                pending += [[item] for item in group]
            else:
                errors[group[0].index] = _line(error)
                if isinstance(error, RefusedError):
                    refused.append(group[0].index)
            continue
        described, end = _write(named, outputs, end)
        groups.append({"items": [item.index for item in group], "outputs": described})
        if model.finite:
            not_finite |= _not_finite(named, group)
    return {"groups": groups, "errors": errors, "refused": refused, "not_finite": not_finite}


def _prepare(
    model: LoadedModel, items: Sequence[dict[str, Any]], inputs: SharedMemory, fits: Callable[[int], bool]
) -> tuple[list[_Ready], dict[int, str]]:
    view = memoryview(inputs.map)
    ready: list[_Ready] = []
    errors: dict[int, str] = {}
    for index, item in enumerate(items):
        tensors: list[Any]
        if "images" in item:
            try:
                tensors = [_decoded(model, [view[start : start + size] for start, size in item["images"]], fits)]
            except ItemError as error:
                errors[index] = str(error)
                continue
        else:
            tensors = [
                string_array(view[start : start + size], shape)
                if spec.datatype == "BYTES"
                else torch.frombuffer(view[start : start + size], dtype=TORCH_DTYPE[spec.datatype]).reshape(shape)
                for (start, size, shape), spec in zip(item["tensors"], model.inputs, strict=True)
            ]
        ready.append(_Ready(index, len(tensors[0]), tensors))
    return ready, errors


def _decoded(model: LoadedModel, images: Sequence[memoryview], fits: Callable[[int], bool]) -> Any:
    if model.image is None:
        raise ItemError("the model takes no encoded images")
    rows = []
    for number, data in enumerate(images, start=1):
        try:
            rows.append(torch.from_numpy(model.image.apply(data, fits)))
        except ItemError as error:
            raise ItemError(f"image {number} of {len(images)}: {error}" if len(images) > 1 else str(error)) from None
    if model.inputs[0].ragged:
        return rows
    if any(row.shape != rows[0].shape for row in rows):
        raise ItemError("its images differ in size: send each in a request of its own")
    return torch.stack(rows)


def _joint_shapes(model: LoadedModel, item: _Ready) -> tuple[tuple[int, ...], ...]:
    """The shapes of an item's rows, by input, with 0 where rows are filled up. Equal ones share a batch."""
    shapes: list[tuple[int, ...]] = []
    for spec, tensor in zip(model.inputs, item.inputs, strict=True):
        shape = [] if spec.ragged else list(tensor.shape[1:])
        if model.size is not None and model.size.padded(spec) and isinstance(tensor, torch.Tensor):
            shape[model.size.axis] = 0
        shapes.append(tuple(shape))
    return tuple(shapes)


def _joined(group: list[_Ready], model: LoadedModel) -> list[Any]:
    """One tensor per input; of a ragged one, a list of its rows. Several items are copied together, the shorter ones
    filled up. A single item is used in place; the model may overwrite it, because nobody reads it again."""
    if len(group) == 1:
        return [
            list(tensor) if spec.ragged else model.laid_out(tensor)
            for spec, tensor in zip(model.inputs, group[0].inputs, strict=True)
        ]
    pad = 0.0 if model.size is None or model.size.pad is None else model.size.pad
    rows = sum(item.rows for item in group)
    joined: list[Any] = []
    for position, (spec, first) in enumerate(zip(model.inputs, group[0].inputs, strict=True)):
        if spec.ragged:
            joined.append([row for item in group for row in item.inputs[position]])
            continue
        if isinstance(first, np.ndarray):
            joined.append(np.concatenate([item.inputs[position] for item in group]))
            continue
        layout = torch.channels_last if model.channels_last and first.ndim == 4 else torch.contiguous_format
        longest = [max(sizes) for sizes in zip(*(item.inputs[position].shape[1:] for item in group), strict=True)]
        whole = torch.empty((rows, *longest), dtype=first.dtype, memory_format=layout)
        start = 0
        for item in group:
            given, place = item.inputs[position], whole[start : start + item.rows]
            if given.shape != place.shape:
                place.fill_(pad)
                place = place[tuple(slice(size) for size in given.shape)]
            place.copy_(given)
            start += item.rows
        joined.append(whole)
    return joined


def _write(named: list[tuple[str, Output]], outputs: SharedMemory, end: int) -> tuple[list[dict[str, Any]], int]:
    """Writes outputs after offset `end`; returns their description and the new end."""
    described = []
    for name, output in named:
        start = aligned(end)
        entry: dict[str, Any] = {"name": name, "datatype": datatype_of(output), "start": start}
        if isinstance(output, list):
            ends = [0]
            for part in output:
                ends.append(_put(part, outputs, start + ends[-1])[-1] - start)
            entry |= {"shapes": [list(part.shape) for part in output], "ends": ends}
            end = start + ends[-1]
        else:
            absolute = _put(output, outputs, start)
            entry["shape"] = list(output.shape)
            if isinstance(output, np.ndarray):
                entry["ends"] = [each - start for each in absolute]
            end = absolute[-1]
        described.append(entry)
    return described, end


def _put(part: Any, outputs: SharedMemory, start: int) -> list[int]:
    """Writes one tensor at `start`. Returns that and where it ends; of strings, where each row ends."""
    if isinstance(part, np.ndarray):
        by_row = part.reshape(len(part), -1) if len(part) else ()
        rows = [pack_strings(_bytes(value) for value in row) for row in by_row]
        ends = list(itertools.accumulate(map(len, rows), initial=start))
        outputs.grow(ends[-1])
        outputs.map[start : ends[-1]] = b"".join(rows)
        return ends
    end = start + part.numel() * part.element_size()
    outputs.grow(end)
    if end > start:
        target = torch.frombuffer(outputs.map, dtype=part.dtype, count=part.numel(), offset=start)
        target.reshape(part.shape).copy_(part)
    return [start, end]


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _not_finite(named: list[tuple[str, Output]], group: list[_Ready]) -> dict[int, str]:
    """The items with a NaN or Inf in their rows, and the name of that output."""
    found: dict[int, str] = {}
    for name, output in named:
        # A sum is not finite if one of its terms is not: one pass without allocation in the normal case. If only the
        # sum overflows, the rows are checked one by one.
        if all(map(_sums_up, output if isinstance(output, list) else [output])):
            continue
        start = 0
        for item in group:
            if not all(bool(row.isfinite().all()) for row in output[start : start + item.rows]):
                found[item.index] = name
            start += item.rows
    return found


def _sums_up(part: Any) -> bool:
    return isinstance(part, np.ndarray) or not part.is_floating_point() or math.isfinite(float(part.sum()))


def _line(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"the model tried to exit the process on this request (code {error.code})"
    text = next((line for line in str(error).splitlines() if line.strip()), "") or type(error).__name__
    if isinstance(error, RefusedError):
        return text[:_MESSAGE_LIMIT]
    return f"the model failed on this request: {text[:_MESSAGE_LIMIT]}"
