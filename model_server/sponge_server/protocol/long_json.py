"""Reads long JSON bodies in small steps, so that a thread can do it while the event loop goes on.

A JSON library holds the interpreter until it has read the whole text: 10 to 150 ms for each MiB, in any thread. So the
numbers are cut out of the text first, the short rest is read at once, and the numbers follow in steps, if their count
and the shape fit. What a model cannot take is counted and refused before anything is read.
"""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from sponge_core.datatypes import NUMPY_TYPES
from sponge_server.bounds import Bounds
from sponge_server.protocol.oip import OipError, TensorHead, number_array
from sponge_server.workers.interface import Tensor

__all__ = ["LONG_TEXT_BYTES", "Numbers", "check_values", "read_long"]

LONG_TEXT_BYTES = 64 << 10
"""A shorter text is read at once, on the event loop: whatever it holds, that takes less than 10 ms."""

STEP_BYTES = 32 << 10
"""Text that is read at once: less than 1 ms."""

MOST_DEPTH = 32
"""Nesting of the numbers of a tensor."""

STRUCTURE, PER_INPUT, PER_OUTPUT = 512, 64, 64
"""Quotes, braces, brackets or commas of a request besides its data: names, parameters, and some to spare."""

_KEY = b'"data"'
_OPENING = re.compile(rb'"data"[ \t\r\n]*:[ \t\r\n]*(?=\[)')
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_MARK = secrets.token_hex(16)
_SPACE = b" \t\r\n"
_KINDS = bytes(byte if byte in b"[]," else ord("0") for byte in range(256))
_NO_BRACKETS = bytes(ord(" ") if byte in b"[]" else byte for byte in range(256))


@dataclass(frozen=True, slots=True)
class Numbers:
    """The list of numbers at `start` to `end` of a text, unread."""

    text: bytes | bytearray
    start: int
    end: int
    most_lists: int

    def tensor(self, head: TensorHead) -> Tensor:
        """The numbers as a tensor. Raises OipError when they are no numbers or do not fit `head`."""
        if head.datatype not in NUMPY_TYPES:
            raise OipError(f"{head.where}: {head.datatype} has no list of numbers in JSON, send it in its own form")
        flat = bytes(self.text[self.start + 1 : self.end - 1])
        if _count(flat, "[") or _count(flat, "]"):
            flat = self._flattened(flat, head)
        given = _count(flat, ",") + 1 if flat.strip() else 0
        if given != head.elements:
            shape = list(head.shape)
            raise OipError(f"{head.where}: shape {shape} holds {head.elements} elements, data has {given}")
        array = np.empty(head.elements, NUMPY_TYPES[head.datatype])
        at = done = 0
        while done < given:
            stop = flat.find(b",", at + STEP_BYTES)
            step = number_array(_read(b"[%b]" % flat[at : len(flat) if stop < 0 else stop]), head)
            if step.size > given - done or (stop < 0 and step.size < given - done):
                raise OipError(f"{head.where}: data is no list of numbers")
            array[done : done + step.size] = step
            done += step.size
            at = stop + 1
            time.sleep(0)  # a turn for the event loop
        return Tensor(head.name, head.datatype, head.shape, array.view(np.uint8).data)

    def _flattened(self, inner: bytes, head: TensorHead) -> bytes:
        """Nested numbers without their brackets. Raises OipError unless all rows of a level have one length."""
        if _count(inner, "[") >= self.most_lists:
            raise OipError(f"{head.where}: data has more than {self.most_lists} lists, send the numbers in one")
        kinds = b"[%b]" % inner.translate(_KINDS, _SPACE)
        shape = kinds.translate(None, b"0")
        if b"0[" in kinds or b"]0" in kinds or shape != _regular(shape):
            raise OipError(f"{head.where}: data is ragged, every row needs the same length")
        return inner.translate(_NO_BRACKETS)


def read_long(text: bytes | bytearray, bounds: Bounds) -> tuple[Any, dict[str, Numbers]]:
    """A request's document, with a mark in place of each list of numbers called data, and the lists by mark.

    Raises:
        OipError: the request has more of something than `bounds` allows, or is no JSON.
    """
    numbers: dict[str, Numbers] = {}
    parts: list[bytes | bytearray] = []
    at, found, seen = 0, text.find(_KEY), 0
    while found >= 0:
        seen += 1
        if seen > STRUCTURE + bounds.inputs:
            raise _too_many(bounds)
        opening = _OPENING.match(text, found)
        start = found + len(_KEY) if opening is None else opening.end()
        end = 0 if opening is None else _end(text, start)
        if end:
            mark = f"{_MARK}{seen}"
            numbers[mark] = Numbers(text, start, end, bounds.lists)
            parts += (text[at:start], b'"%b"' % mark.encode())
            at = start = end
        found = text.find(_KEY, start)
    rest = b"".join((*parts, text[at:]))
    check_values(rest, bounds)
    return _read(rest), numbers


def check_values(text: bytes | bytearray, bounds: Bounds) -> None:
    """Raises OipError when a text has more values than `bounds` allows, apart from lists of numbers."""
    values = _STRING.sub(b'""', text) if bounds.texts else text  # a string may hold any number of signs
    most = (
        STRUCTURE + bounds.inputs * (PER_INPUT + bounds.dimensions + 2 * bounds.strings) + PER_OUTPUT * bounds.outputs
    )
    if any(_count(values, sign) > most for sign in '"{[,'):
        raise _too_many(bounds)


def _end(text: bytes | bytearray, start: int) -> int:
    """The end of the list of numbers at `start`; 0 if the list holds anything else. No number has quotes or braces."""
    stop = len(text)
    for sign in b'"{}':
        place = text.find(sign, start, stop)
        stop = stop if place < 0 else place
    return text.rfind(b"]", start, stop) + 1


def _regular(shape: bytes) -> bytes:
    """Brackets and commas of an array as deep and long as `shape` begins; b"" for a depth that no tensor has."""
    depth = len(shape[: MOST_DEPTH + 1]) - len(shape[: MOST_DEPTH + 1].lstrip(b"["))
    end = shape.find(b"]")
    if depth > MOST_DEPTH or end < depth:
        return b""
    block = shape[depth - 1 : end + 1]
    for level in range(depth - 2, -1, -1):
        inner = shape.find(b"]" * (depth - level)) + depth - level - 1 - (level + 1)
        if inner < len(block):
            return b""
        count = (inner + 1) // (len(block) + 1)
        block = b"[%b]" % ((block + b",") * count)[:-1]
        if len(block) > len(shape):
            return b""
    return block


def _count(text: bytes | bytearray, sign: str) -> int:
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord(sign)))


def _read(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise OipError(f"the JSON part of the body cannot be read: {error}") from None


def _too_many(bounds: Bounds) -> OipError:
    return OipError(
        f"the JSON has too many values besides the numbers of its inputs: the model takes {bounds.inputs} inputs of at "
        f"most {bounds.dimensions} dimensions, and {bounds.outputs} outputs"
    )
