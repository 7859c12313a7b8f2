"""Strings of datatype BYTES, in the protocol's binary form: each after its length, four bytes little-endian.

They cross to the lanes and back in this form. A model gets them as a numpy array of `bytes` objects.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

__all__ = ["pack_strings", "unpacked"]


def pack_strings(values: Iterable[bytes | bytearray | memoryview]) -> bytes:
    """Elements of datatype BYTES in binary form."""
    parts: list[bytes | bytearray | memoryview] = []
    for value in values:
        parts += (struct.pack("<I", len(value)), value)
    return b"".join(parts)


def unpacked(data: bytes | bytearray | memoryview) -> list[bytes]:
    """Reverses `pack_strings` for data that it made."""
    view, values, at = memoryview(data), [], 0
    while at < len(view):
        (size,) = struct.unpack_from("<I", view, at)
        values.append(bytes(view[at + 4 : at + 4 + size]))
        at += 4 + size
    return values
