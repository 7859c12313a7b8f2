"""Bounds of a request: what one request to a model may contain, known from the model before any request arrives.

Whatever a client chooses (dimensions, elements, strings, outputs, bytes) is compared with these numbers before anything
is multiplied, unpacked or copied for it. REST and gRPC check the same bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sponge_server.workers.interface import STRING_BYTES, ModelInfo, TensorSpec, element_bytes

__all__ = ["FRAMING_BYTES", "Bounds", "bounds_of", "common"]

LEAST_ROWS, BATCHES, MOST_ROWS = 64, 4, 1024
"""Rows of a request: a few of the model's largest batches, and a fair number where batches are small. Small rows may be
as many as fit `LEAST_BYTES`, up to the last number: more would take the event loop too long."""

LEAST_DIMENSIONS = 8
"""A tensor with a few dimensions too many is told the right shape; one with thousands is not looked at."""

NUMBER_BYTES = 26
"""Longest usual text of a number in JSON, with its comma: -1.7976931348623157e+308."""

SPARE = 2
"""A text may be so many times as long as the model needs: indentation, brackets, numbers with many digits."""

FRAMING_BYTES = 64 << 10
"""What a request needs besides its data: names, shapes, parameters."""

LEAST_BYTES, IMAGE_MESSAGE_BYTES = 8 << 20, 16 << 20
"""A request up to the first size is always read, so that it can be told what is wrong with it. A message with encoded
images has room for photographs; what is larger needs a body, which says how long it is."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most of everything in one request.

    Attributes:
        rows: rows of a request.
        inputs: input tensors.
        dimensions: sizes in a shape.
        elements: elements of one tensor.
        strings: elements of one tensor of strings.
        outputs: requested outputs.
        lists: JSON lists in the data of one input, when it is nested.
        tensor_bytes: all input tensors together, as a lane takes them.
        text_bytes: JSON, or numbers that are otherwise parsed one by one.
        body_bytes: body of a request that says how long it is.
        message_bytes: message of unknown length, for which so much is set aside.
        texts: strings in JSON are texts; else they are encoded images, in base64.
    """

    rows: int
    inputs: int
    dimensions: int
    elements: int
    strings: int
    outputs: int
    lists: int
    tensor_bytes: int
    text_bytes: int
    body_bytes: int
    message_bytes: int
    texts: bool = False


def bounds_of(info: ModelInfo, max_body_bytes: int, max_text_bytes: int) -> Bounds:
    """The bounds of a model.

    Args:
        max_body_bytes: the most for any model.
        max_text_bytes: the most text for any model.
    """
    small_rows = min(MOST_ROWS, LEAST_BYTES // max(1, info.least_row_bytes))
    rows = max(LEAST_ROWS, BATCHES * info.max_batch, small_rows)
    counts = [_elements(spec, rows, max_body_bytes) for spec in info.inputs]
    counted = list(zip(counts, info.inputs, strict=True))
    tensor_bytes = sum(count * element_bytes(spec.datatype) for count, spec in counted)
    text = sum(count * (STRING_BYTES if spec.datatype == "BYTES" else NUMBER_BYTES) for count, spec in counted)
    text_bytes = min(max_text_bytes, SPARE * text + FRAMING_BYTES)
    body_bytes = max(LEAST_BYTES, tensor_bytes + FRAMING_BYTES, text_bytes)
    message_bytes = body_bytes
    if info.accepts_images:  # an encoded image may have any size
        text_bytes = max_text_bytes
        body_bytes, message_bytes = max_body_bytes, max(body_bytes, IMAGE_MESSAGE_BYTES)
    return Bounds(
        rows=rows,
        inputs=len(info.inputs),
        dimensions=max([LEAST_DIMENSIONS, *(len(spec.shape) + 1 for spec in info.inputs)]),
        elements=max(counts, default=0),
        strings=max([rows, *(count for count, spec in counted if spec.datatype == "BYTES")]),
        outputs=2 * len(info.outputs),
        lists=max((_lists(spec, rows, count) for spec, count in zip(info.inputs, counts, strict=True)), default=0),
        tensor_bytes=min(tensor_bytes, max_body_bytes),
        text_bytes=text_bytes,
        body_bytes=min(max_body_bytes, body_bytes),
        message_bytes=min(max_body_bytes, message_bytes) + FRAMING_BYTES,
        texts=info.takes_texts,
    )


def common(bounds: Sequence[Bounds]) -> Bounds:
    """What fits one of several models: for a request that has yet to name its model."""
    return Bounds(*(max(values) for values in zip(*(_fields(one) for one in bounds), strict=True)))


def _fields(bounds: Bounds) -> Iterable[int]:
    return (getattr(bounds, name) for name in Bounds.__slots__)


def _elements(spec: TensorSpec, rows: int, max_bytes: int) -> int:
    """The most elements of an input; a dimension of any size is bounded by the bytes of a body."""
    most = max_bytes // element_bytes(spec.datatype)
    if any(size < 0 for size in spec.shape):
        return most
    return min(most, rows * math.prod(spec.shape))


def _lists(spec: TensorSpec, rows: int, elements: int) -> int:
    """The most lists in nested data: one for each row of each dimension but the last."""
    lists, outer = 1, rows
    for size in spec.shape:
        lists += outer
        outer = elements if size < 0 else outer * size
        outer = min(outer, elements)
    return min(lists, len(spec.shape) * elements + 1)
