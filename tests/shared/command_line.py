"""`sponge` in the test's own process, for what it refuses: a process of its own takes a second of CPU to import.

What depends on a process (signals, a clean interpreter, all of its output) runs `python -m sponge_cli.main`.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from unittest import mock

import pytest

from sponge_cli.main import main

__all__ = ["sponge"]


def sponge(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command; what would be a traceback is raised."""
    command = ["sponge", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", command),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert isinstance(ended.value.code, int)
    return subprocess.CompletedProcess(command, ended.value.code, out.getvalue(), err.getvalue())
