"""Limits how far a process may grow, so that memory that runs out is an error of what asked for it.

Without this the kernel ends a process, or all of its cgroup. This module must not import numpy, because the server's
own process imports it. All sizes are in bytes.
"""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

__all__ = ["RESERVE_BYTES", "limit_growth", "unlimit_growth"]

RESERVE_BYTES = 64 << 20
"""Memory to leave free, for page tables, waiting requests, and the code that must stay in memory to run."""


def limit_growth(pid: int, room_bytes: int) -> None:
    """From now on, a process of the same user and its later forks are refused more than so many bytes.

    The process sees a failed allocation, where the kernel would end it, or all of its cgroup, for lack of memory. If it
    has ended, nothing happens. Memory that it shares with others is not limited.
    """
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        # What is mapped and unused, some hundred MiB of torch's libraries, must not count: so the limit starts there.
        mapped = int(Path(f"/proc/{pid}/statm").read_bytes().split()[5]) * resource.getpagesize()
        _, most = resource.prlimit(pid, resource.RLIMIT_DATA)
        allowed = mapped + max(0, room_bytes)
        resource.prlimit(pid, resource.RLIMIT_DATA, (allowed if most < 0 else min(allowed, most), most))


def unlimit_growth(pid: int) -> None:
    """Takes the limit of `limit_growth` back."""
    with contextlib.suppress(ProcessLookupError):
        _, most = resource.prlimit(pid, resource.RLIMIT_DATA)
        resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))
