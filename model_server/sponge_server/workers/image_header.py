"""The size of an encoded image, read from its header in microseconds and without decoding.

The server's own process asks for it once for each image: one of too many pixels is refused before it is queued, and a
batch with large images may take longer before it counts as hung.
"""

from __future__ import annotations

from sponge_server.workers.interface import ItemError

__all__ = ["LONGEST_SIDE", "MAX_PIXELS", "WEBP", "check_pixels", "image_size", "pixels_of"]

MAX_PIXELS = 50_000_000
"""More than any relevant camera has. An image of a few kilobytes can claim any number."""

LONGEST_SIDE = 65_535
"""As of a JPEG. A decoder keeps some bytes for every line, so millions of lines cost more than their pixels."""

MOST_SEGMENTS = 256
"""Segments of a JPEG that are searched for its size; photographs have some ten of them."""

WEBP = b"WEBP"
"""Bytes 8 to 12 of such a file."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_JPEG_BEGINS = b"\xff\xd8\xff"
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length


def image_size(data: bytes | bytearray | memoryview) -> tuple[int, int] | None:
    """Width and height as the header of a PNG, JPEG or WebP states them; None where it states none."""
    view = memoryview(data)
    if view[:8] == _PNG:
        if len(view) < 24:
            return None
        return int.from_bytes(view[16:20], "big"), int.from_bytes(view[20:24], "big")
    if _is_webp(view):
        return _webp_size(view)
    return _jpeg_size(view) if view[:2] == _JPEG else None


def pixels_of(data: bytes | bytearray | memoryview) -> int:
    """Number of pixels; the most that may be decoded where the header does not say it (the lane then says why).

    Raises ItemError for an image without pixels, or with too many to decode, and for what no decoder would try. A
    request may have a thousand images of no byte each.
    """
    size = image_size(data)
    if size is None:
        if _is_webp(memoryview(data)):
            raise ItemError("the image is a WebP whose header is broken")
        if bytes(data[:8]) != _PNG and bytes(data[:3]) != _JPEG_BEGINS:
            raise ItemError("the image is not a JPEG, PNG or WebP")
        return MAX_PIXELS
    check_pixels(*size)
    return size[0] * size[1]


def check_pixels(width: int, height: int) -> None:
    """Raises ItemError when an image of this size has no pixels, or too many to decode."""
    if width < 1 or height < 1:
        raise ItemError(f"the image has {width} x {height} pixels: send one with at least 1 x 1")
    if max(width, height) > LONGEST_SIDE:
        raise ItemError(f"the image has {width:,} x {height:,} pixels: send one of at most {LONGEST_SIDE:,} a side")
    if width * height > MAX_PIXELS:
        raise ItemError(f"the image has more than {MAX_PIXELS:,} pixels ({width:,} x {height:,}): send a smaller one")


def _is_webp(view: memoryview) -> bool:
    return bytes(view[:4]) == b"RIFF" and bytes(view[8:12]) == WEBP


def _webp_size(view: memoryview) -> tuple[int, int] | None:
    """Of its first chunk: VP8X with the canvas, VP8L (lossless), or VP8 (lossy). An animation has one canvas."""
    if len(view) < 30:
        return None
    kind = bytes(view[12:16])
    if kind == b"VP8X":
        return 1 + int.from_bytes(view[24:27], "little"), 1 + int.from_bytes(view[27:30], "little")
    if kind == b"VP8L" and view[20] == 0x2F:
        bits = int.from_bytes(view[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and bytes(view[23:26]) == b"\x9d\x01\x2a":
        return int.from_bytes(view[26:28], "little") & 0x3FFF, int.from_bytes(view[28:30], "little") & 0x3FFF
    return None


def _jpeg_size(view: memoryview) -> tuple[int, int] | None:
    at = 2
    for _ in range(MOST_SEGMENTS):
        if at + 9 > len(view) or view[at] != 0xFF:
            return None
        marker = view[at + 1]
        if marker in _FRAME_HEADERS:
            return int.from_bytes(view[at + 7 : at + 9], "big"), int.from_bytes(view[at + 5 : at + 7], "big")
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _ALONE:
            at += 2
        else:
            at += 2 + int.from_bytes(view[at + 2 : at + 4], "big")
    return None
