"""SIGTERM ends a command that is still starting, also as the first process of a container."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STARTING = """
import time
from sponge_cli import main
def start(**_):
    print("starts", flush=True)
    time.sleep(60)
main.cli = start
main.main()
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and Linux namespaces")
def test_the_first_process_of_a_container_ends_while_it_starts() -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", STARTING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as outer:
        try:
            assert outer.stdout is not None
            assert outer.stdout.readline() == "starts\n"
            (first,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text(encoding="ascii").split()
            os.kill(int(first), signal.SIGTERM)
            assert outer.wait(timeout=30) == 128 + signal.SIGTERM
        finally:
            outer.kill()


def test_any_other_process_ends_by_the_signal() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTING], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "starts\n"
            process.terminate()
            assert process.wait(timeout=30) == -signal.SIGTERM
        finally:
            process.kill()
