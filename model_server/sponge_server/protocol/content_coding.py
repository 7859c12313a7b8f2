"""Compression: requests of HTTP and gRPC may be compressed with gzip or deflate, and answers of HTTP with gzip.

A small body may expand to any size: it is decompressed step by step, and whoever takes the pieces stops at its bound.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable

from sponge_server.protocol.problems import ProblemError

__all__ = ["Inflater", "accepts_gzip", "gzipped", "inflated", "is_coded", "is_compressed"]

ENCODINGS = (b"gzip", b"x-gzip", b"deflate")

STEP_IN, STEP_OUT = 16 << 10, 256 << 10
"""Bytes that one step takes and makes at most: less than 1 ms. Other tasks get a turn between two steps."""

MOST_MEMBERS = 1024
"""Members of a gzip body. An empty one takes 20 bytes, and a decompressor of its own."""

LEAST_BYTES = 1400
"""A shorter answer fits one packet anyway."""

LEVEL = 1
"""The fastest level: higher ones take several times as long, and save a tenth more of JSON."""

MOST_ACCEPTED = 512
"""Bytes of Accept-Encoding that are looked at; browsers send some 30."""

_GZIP, _GZIP_OR_ZLIB = 31, 47


def is_coded(headers: dict[bytes, bytes]) -> bool:
    """Whether the body of a request is compressed. Raises ProblemError 415 for a coding that the server lacks."""
    coding = headers.get(b"content-encoding", b"").strip().lower()
    if coding in (b"", b"identity"):
        return False
    if coding in ENCODINGS:
        return True
    text = f"Content-Encoding is {coding.decode('latin-1')!r}: send gzip, deflate, or the plain body"
    raise ProblemError(415, "encoded-body", text, [(b"accept-encoding", b"gzip, deflate")])


def is_compressed(message: bytes) -> bool:
    """Whether a message of gRPC is compressed: its library does not say, but no message of ours begins so.

    As a protobuf, gzip would begin with a field of a type that does not exist, and deflate with the unused field 15.
    """
    return message[:2] == b"\x1f\x8b" or (message[:1] == b"\x78" and int.from_bytes(message[:2], "big") % 31 == 0)


def inflated(message: bytes, most: int) -> bytes:
    """A short message of gRPC, decompressed if it is compressed. Raises ProblemError for more than `most` bytes."""
    if not is_compressed(message):
        return message
    inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        plain = inflate.decompress(message, most)
    except zlib.error as error:
        raise _not_compressed(error) from None
    if not inflate.eof:
        raise ProblemError(413, "too-large", f"the message is cut off, or has more than {most} bytes")
    return plain


class Inflater:
    """Decompresses the body of one request while it arrives."""

    __slots__ = ("_inflate", "_members", "_more", "_pull", "_rest")

    def __init__(self, pull: Callable[[], Awaitable[tuple[bytes, bool]]]) -> None:
        """`pull` gives the next piece of the compressed body, and whether more follow."""
        self._pull = pull
        self._rest = memoryview(b"")  # pulled and not decompressed yet
        self._more = True
        self._members = 1
        self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB)

    async def receive(self) -> tuple[bytes, int, bool]:
        """The next piece of the plain body, the compressed bytes that were pulled for it, and whether more follow.

        Raises ProblemError 400 when the body is not compressed as it says, or is cut off.
        """
        pulled = 0
        while True:
            if not self._rest and self._more:
                piece, self._more = await self._pull()
                self._rest, pulled = memoryview(piece), pulled + len(piece)
            else:
                await asyncio.sleep(0)
            plain = self._step()
            if not (self._rest or self._more) and len(plain) < STEP_OUT:
                if not self._inflate.eof:
                    raise ProblemError(400, "encoded-body", "the compressed body is cut off: send all of it")
                return plain, pulled, False
            if plain:
                return plain, pulled, True

    def _step(self) -> bytes:
        if self._inflate.eof and self._rest:
            self._members += 1
            if self._members > MOST_MEMBERS:
                text = f"the compressed body has more than {MOST_MEMBERS} members: compress it in one"
                raise ProblemError(400, "encoded-body", text)
            self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB)  # a gzip file may have several members
        step = self._rest[:STEP_IN]
        try:
            plain = self._inflate.decompress(step, STEP_OUT)
        except zlib.error as error:
            raise _not_compressed(error) from None
        left = len(self._inflate.unconsumed_tail) or len(self._inflate.unused_data)
        self._rest = self._rest[len(step) - left :]
        return plain


def accepts_gzip(headers: dict[bytes, bytes]) -> bool:
    """Whether the client wants its answer in gzip rather than plain."""
    accepted = headers.get(b"accept-encoding")
    if accepted is None or len(accepted) > MOST_ACCEPTED:
        return False
    weights: dict[bytes, float] = {}
    for item in accepted.lower().split(b","):
        coding, *parameters = (part.strip() for part in item.split(b";"))
        weights[coding] = _weight(parameters)
    weight = weights.get(b"gzip", weights.get(b"x-gzip", weights.get(b"*", 0.0)))
    return weight > 0.0 and weight >= weights.get(b"identity", 0.0)


def gzipped(body: bytes) -> bytes | None:
    """The body in gzip; None where that saves nothing."""
    if len(body) < LEAST_BYTES:
        return None
    deflate = zlib.compressobj(LEVEL, wbits=_GZIP)
    small = deflate.compress(body) + deflate.flush()
    return small if len(small) < len(body) else None


def _not_compressed(error: zlib.error) -> ProblemError:
    return ProblemError(400, "encoded-body", f"the body is not compressed as it says: {error}")


def _weight(parameters: list[bytes]) -> float:
    """The weight q of a coding, 1 by default; 0 if it is no number."""
    for parameter in parameters:
        name, _, value = parameter.partition(b"=")
        if name.strip() == b"q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
