"""What a process may still allocate, in a real cgroup."""

from __future__ import annotations

import resource
import subprocess
import sys

from memory_cgroup import memory_cgroup

from sponge_system.cgroup import read_oom_kills
from sponge_system.memory_growth import limit_growth, unlimit_growth

MIB = 1 << 20

GROWS = """
import mmap, os, sys
from pathlib import Path
from sponge_system.cgroup import read_memory_left
from sponge_system.memory_growth import limit_growth

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
