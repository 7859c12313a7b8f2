"""A process that asks to wake promptly has a short time slice; its children do not."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import subprocess
from pathlib import Path
from sponge_system.os_scheduling import wake_promptly
print(wake_promptly())
print(Path("/proc/self/sched").read_text())
print(subprocess.run(["cat", "/proc/self/sched"], capture_output=True, text=True).stdout)
"""


def test_a_short_slice_for_this_process_alone() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    known = platform.system() == "Linux" and platform.machine() in ("x86_64", "aarch64")
    assert run.stdout.startswith(str(known))
    slices = [int(ns) for ns in re.findall(r"se\.slice\s*:\s*(\d+)", run.stdout)]
    version = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    if known and version >= (6, 12) and Path("/proc/self/sched").exists() and slices:
        mine, child = slices
        assert mine < child
