"""Real cgroups for tests, on either version of cgroups."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sponge_system.cgroup import CgroupError, controller_root

_numbers = itertools.count()


@contextlib.contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[Path]:
    """The directory of a new cgroup with this limit and no swap; skips the test where none can be made."""
    with _cgroup("memory") as group:
        name = "memory.max" if (group / "memory.max").exists() else "memory.limit_in_bytes"
        (group / name).write_text(str(limit_bytes))
        yield group


@contextlib.contextmanager
def pids_cgroup() -> Iterator[Path]:
    """The directory of a new cgroup that counts processes and threads; skips the test where none can be made."""
    with _cgroup("pids") as group:
        yield group


@contextlib.contextmanager
def _cgroup(controller: str) -> Iterator[Path]:
    try:
        group = controller_root(controller) / f"sponge-test-{os.getpid()}-{next(_numbers)}"
        group.mkdir()
    except (CgroupError, OSError) as refused:
        pytest.skip(f"no cgroup for {controller} can be made here: {refused}")
    try:
        yield group
    finally:
        until = time.monotonic() + 10
        while (left := (group / "cgroup.procs").read_text().split()) and time.monotonic() < until:
            time.sleep(0.02)
        for pid in left:  # of a test that failed
            os.kill(int(pid), signal.SIGKILL)
        while (group / "cgroup.procs").read_text():
            time.sleep(0.02)
        group.rmdir()
