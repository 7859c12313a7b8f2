"""Messages and shared memory between two processes."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from sponge_server.workers.ipc import SharedMemory, aligned, read_message, receive, send


def test_messages_keep_their_boundaries_and_carry_descriptors() -> None:
    left, right = socket.socketpair()
    with left, right:
        read, write = os.pipe()
        send(left, {"a": 1})
        send(left, {"b": "ü"}, [write])
        assert receive(right, 3) == ({"a": 1}, [])
        message, fds = receive(right, 3) or ({}, [])
        assert message == {"b": "ü"}
        os.write(fds[0], b"x")
        assert os.read(read, 1) == b"x"
        for fd in (read, write, *fds):
            os.close(fd)
        left.close()
        assert receive(right) is None


def test_an_incomplete_message_counts_as_a_closed_connection() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"\xff\0\0\0{")
        left.close()
        assert receive(right) is None


@pytest.mark.parametrize("rubbish", [b"\xff\xff\xff\xffrubbish", b"\x03\0\0\0{{{", b"\x01\0"])
def test_what_is_no_message_ends_the_conversation(rubbish: bytes) -> None:
    async def read() -> object:
        reader = asyncio.StreamReader()
        reader.feed_data(rubbish)
        reader.feed_eof()
        return await read_message(reader)

    assert asyncio.run(read()) is None


def test_the_other_side_follows_growth_and_old_views_stay_valid() -> None:
    mine = SharedMemory.create("test", 10)
    theirs = SharedMemory(os.dup(mine.fd))
    mine.map[:3] = b"abc"
    view = memoryview(theirs.map)[:3]
    mine.grow(mine.size + 1)
    mine.map[-1:] = b"z"
    theirs.fit()
    assert theirs.size == mine.size
    assert theirs.map[-1:] == b"z"
    assert bytes(view) == theirs.map[:3] == b"abc"
    mine.close()
    theirs.close()


def test_memory_that_one_large_batch_needed_is_given_back() -> None:
    memory = SharedMemory.create("test", 10)
    theirs = SharedMemory(os.dup(memory.fd))
    memory.grow(1 << 20)
    memory.map[:] = b"x" * memory.size
    theirs.fit()
    used = os.fstat(memory.fd).st_blocks
    memory.give_back(10_000)
    assert os.fstat(memory.fd).st_blocks < used // 10
    assert theirs.map[:10_000] == b"x" * 10_000
    assert theirs.map[-1:] == b"\0"
    memory.give_back(memory.size)
    theirs.map[-1:] = b"y"
    assert memory.map[-1:] == b"y", "it may be used again"
    memory.close()
    theirs.close()


def test_aligned() -> None:
    assert [aligned(n) for n in (0, 1, 64, 65)] == [0, 64, 64, 128]
