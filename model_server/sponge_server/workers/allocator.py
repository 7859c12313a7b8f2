"""Memory of this process, and giving its free parts back to the kernel.

The allocator of the workers keeps all memory (`fork_server.ENVIRONMENT` says why), and batches of many sizes
fragment it: a ResNet-18 lane that needs 75 to 120 MiB for its largest batch came to hold up to 320 MiB.
"""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

__all__ = ["give_back", "held_bytes", "keep_little"]

_PAGE_BYTES = resource.getpagesize()


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of mallopt(3)

LARGE_BYTES, SPARE_BYTES = 4 << 20, 32 << 20
"""A block of the first size goes back to the kernel when it is freed; beside these, so much stays for the next ones."""


def keep_little() -> None:
    """From now on, this process keeps little of what it frees. Does nothing if the C library cannot.

    Large blocks go back to the kernel. By default the first one that is freed moves the bound above its size: after one
    large request, all memory that requests ever needed stays with the process, in pieces. All threads share one arena:
    with one for each, what long requests had used stayed in all of them, 40 MiB instead of 15. Call it before the first
    thread starts.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, LARGE_BYTES)
        set_option(_M_TRIM_THRESHOLD, SPARE_BYTES)
        set_option(_M_ARENA_MAX, 1)


def held_bytes() -> int:
    """Bytes of this process in RAM that belong to no file, including pages shared with its parent.

    It takes about 10 µs, so it can run after every batch; the exact `sponge_system.process_memory.anonymous_bytes`
    takes 15 ms.
    """
    _, resident, of_files, *_ = Path("/proc/self/statm").read_bytes().split()
    return (int(resident) - int(of_files)) * _PAGE_BYTES


def give_back() -> None:
    """Gives unused memory of the allocator back, in about 10 ms. Does nothing if the C library cannot."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
