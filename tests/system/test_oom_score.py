"""Scores of processes for when memory runs out, on the real kernel."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from server_process import oom_score

from sponge_system.oom_score import FORK_SERVER, LANE, LOADING, set_oom_score

RAISES = """
import sys
from pathlib import Path
from sponge_system.oom_score import raise_oom_score
for by in sys.argv[1:]:
    raise_oom_score(int(by))
print(Path("/proc/self/oom_score_adj").read_text())
"""


@pytest.mark.parametrize("steps", [(FORK_SERVER,), (FORK_SERVER, LANE - FORK_SERVER), (FORK_SERVER + LOADING, 1000)])
def test_a_process_raises_its_own(steps: tuple[int, ...]) -> None:
    printed = subprocess.check_output([sys.executable, "-c", RAISES, *map(str, steps)])
    assert int(printed) == min(1000, oom_score(os.getpid()) + sum(steps))


def test_another_process_is_set_and_lowered_again() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            for above in (LANE + LOADING, LANE, FORK_SERVER):
                set_oom_score(process.pid, above)
                assert oom_score(process.pid) == min(1000, oom_score(os.getpid()) + above)
        finally:
            process.kill()
    set_oom_score(process.pid, LANE)  # it has ended
