"""The memory model: never below the measurements, and the sizes that fit under a limit."""

from __future__ import annotations

import mmap
import os
import resource
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from memory_cgroup import memory_cgroup

from sponge_system.cgroup import read_oom_kills
from sponge_system.process_memory import (
    RESERVE_BYTES,
    MemoryModel,
    anonymous_bytes,
    limit_growth,
    private_bytes,
    unlimit_growth,
)

MIB = 1 << 20
SIZE = st.integers(0, 1 << 33)


@given(SIZE, st.dictionaries(st.integers(1, 64), SIZE, min_size=1, max_size=8), st.integers(0, 1 << 22))
def test_no_point_needs_more_than_the_model_says(base: int, points: dict[int, int], shared: int) -> None:
    model = MemoryModel.of(base, sorted(points.items()), shared)
    for batch, size in points.items():
        assert model.need(1, batch) >= base + size + shared * batch - batch - 1  # rounded to whole bytes


@given(SIZE, SIZE, SIZE, st.integers(1, 1 << 38), st.integers(1, 16), st.integers(1, 64))
def test_what_fits_fits_and_one_more_does_not(
    base: int, lane: int, item: int, limit: int, lanes: int, batch: int
) -> None:
    model = MemoryModel(base, lane, item)
    found = model.fit(limit, lanes, batch)
    if found is None:
        assert model.need(1, 1) + RESERVE_BYTES > limit
        return
    count, rows = found
    assert 1 <= count <= lanes
    assert 1 <= rows <= batch
    assert model.need(count, rows) + RESERVE_BYTES <= limit
    if rows < batch:
        assert model.need(count, rows + 1) + RESERVE_BYTES > limit
    if count < lanes:
        assert model.need(count + 1, 1) + RESERVE_BYTES > limit


def test_rows_are_given_up_before_lanes() -> None:
    model = MemoryModel(500 * MIB, 50 * MIB, 10 * MIB)
    assert model.fit(900 * MIB, 2, 16) == (2, 11)
    assert model.fit(700 * MIB, 4, 16) == (2, 1)
    assert model.fit(600 * MIB, 4, 16) is None


def test_the_kernel_tells_of_this_process() -> None:
    before = private_bytes(os.getpid())
    assert before is not None
    # A mapping of its own: the allocator may have pages to hand out that the process holds already.
    kept = mmap.mmap(-1, 32 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    kept.write(os.urandom(MIB) * 32)
    after = private_bytes(os.getpid())
    assert after is not None
    assert after - before > 30 * MIB
    assert (anonymous_bytes(os.getpid()) or 0) > 30 * MIB
    assert private_bytes(2**22 + 1) is None
    kept.close()


GROWS = """
import mmap, os, sys
from pathlib import Path
from sponge_system.cgroup import read_memory_left
from sponge_system.process_memory import limit_growth

unused = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # mapped before: it counts for nothing
limit_growth(os.getpid(), read_memory_left(Path(sys.argv[1])) - (64 << 20))
for line in sys.stdin:
    count, size = map(int, line.split())
    try:
        kept = [b"x" * (size << 20) for _ in range(count)]
        print("had", flush=True)
    except MemoryError:
        print("refused", flush=True)
    kept = None
"""


def test_growth_ends_where_the_reserve_begins_until_it_is_allowed_again() -> None:
    with memory_cgroup(512 * MIB) as group:
        join = f'echo $$ > {group / "cgroup.procs"}; exec "$@"'
        command = ["sh", "-c", join, "sh", sys.executable, "-c", GROWS, str(group)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def grown(count: int, mib: int) -> str:
                print(count, mib, file=process.stdin, flush=True)
                return process.stdout.readline().strip() if process.stdout else ""

            assert grown(1, 350) == "had"
            assert grown(1, 480) == "refused"
            assert grown(700, 1) == "refused"
            assert grown(1, 350) == "had", "what it gives back it may have again"
            unlimit_growth(process.pid)
            assert read_oom_kills(group) == 0
            assert grown(1, 440) == "had"
            assert read_oom_kills(group) == 0
            process.stdin.close()
            process.wait(10)
    limit_growth(process.pid, MIB)  # it has ended
    unlimit_growth(process.pid)


def test_growth_has_no_limit_beyond_that_of_the_system() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (64 * MIB, 64 * MIB))
            limit_growth(process.pid, 1024 * MIB)
            assert resource.prlimit(process.pid, resource.RLIMIT_DATA) == (64 * MIB, 64 * MIB)
            limit_growth(process.pid, -MIB)
            assert resource.prlimit(process.pid, resource.RLIMIT_DATA)[0] < 64 * MIB
            unlimit_growth(process.pid)
            assert resource.prlimit(process.pid, resource.RLIMIT_DATA) == (64 * MIB, 64 * MIB)
        finally:
            process.kill()
