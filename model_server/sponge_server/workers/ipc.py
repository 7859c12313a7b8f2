"""Communication between server, fork server and lanes: small messages over sockets, tensors in shared memory.

Shared memory is an anonymous memfd: it leaves no name behind, is not limited by the size of /dev/shm (64 MB in a
container), and is freed with the last process that holds it.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import socket
import struct
from typing import Any

__all__ = ["Message", "SharedMemory", "aligned", "pack", "read_message", "receive", "send"]

_HEADER = struct.Struct("<I")
_ALIGN = 64  # a cache line, and enough for any vector load
_PAGE = mmap.PAGESIZE
_LONGEST_MESSAGE = 64 << 20  # more than any batch needs; a larger number is no length

Message = dict[str, Any]


def aligned(offset: int) -> int:
    """The first offset >= `offset` where a tensor may start."""
    return -(-offset // _ALIGN) * _ALIGN


def pack(message: Message) -> bytes:
    """A message as bytes: its length, then JSON."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _HEADER.pack(len(body)) + body


def send(sock: socket.socket, message: Message, fds: list[int] | None = None) -> None:
    """Sends a message, with file descriptors if given. Raises OSError when the other side is gone."""
    data = pack(message)
    if fds:
        sent = socket.send_fds(sock, [data], fds)
        sock.sendall(data[sent:])
    else:
        sock.sendall(data)


def receive(sock: socket.socket, max_fds: int = 0) -> tuple[Message, list[int]] | None:
    """Blocks for a message and the descriptors that came with it; None when the other side is gone."""
    header, fds, _, _ = (
        socket.recv_fds(sock, _HEADER.size, max_fds) if max_fds else (sock.recv(_HEADER.size), [], 0, None)
    )
    header += _exactly(sock, _HEADER.size - len(header)) if header else b""
    if len(header) < _HEADER.size:
        return None
    (length,) = _HEADER.unpack(header)
    body = _exactly(sock, length)
    if len(body) < length:
        return None
    message: Message = json.loads(body)
    return message, list(fds)


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """Waits for a message without blocking the loop; None when the other side is gone, or sends something else."""
    try:
        (length,) = _HEADER.unpack(await reader.readexactly(_HEADER.size))
        if length > _LONGEST_MESSAGE:
            return None
        message: Message = json.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, OSError, ValueError):
        return None
    return message


def _exactly(sock: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = sock.recv(size - len(parts))
        if not part:
            break
        parts += part
    return bytes(parts)


class SharedMemory:
    """A memfd mapped into this process. One side writes and grows it; the other calls `fit` to follow."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = os.fstat(fd).st_size
        self.map = mmap.mmap(fd, self.size)

    @classmethod
    def create(cls, name: str, size: int) -> SharedMemory:
        """New shared memory of at least `size` bytes. Pages need memory only once they are written."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, max(_PAGE, -(-size // _PAGE) * _PAGE))
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    def grow(self, size: int) -> None:
        """Grows it to at least `size` bytes, and by at least half, so that growth stays rare."""
        if size > self.size:
            os.ftruncate(self.fd, -(-max(size, self.size * 3 // 2) // _PAGE) * _PAGE)
            self.fit()

    def fit(self) -> None:
        """Maps it in its present size. Views of the old mapping stay valid until they are dropped."""
        size = os.fstat(self.fd).st_size
        if size != self.size:
            self.map = mmap.mmap(self.fd, size)
            self.size = size

    def give_back(self, beyond: int) -> None:
        """Frees the pages behind the first `beyond` bytes, which then read as zeros; nobody may need their content."""
        start = -(-beyond // _PAGE) * _PAGE
        if start < self.size:
            self.map.madvise(mmap.MADV_REMOVE, start, self.size - start)

    def close(self) -> None:
        """Closes the descriptor; the mapping ends with its last view."""
        os.close(self.fd)
