"""The processes that come from one fork server: its lanes, and whatever models have started, wherever it went.

They share a mark in their environment, which children inherit, so that none outlives the fork server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import Iterable
from pathlib import Path

__all__ = ["end_family", "go_on", "is_starved", "new_mark", "own_children"]

_MARK = "SPONGE_FAMILY"
_REAP_S, _REAP_POLL_S = 1.0, 0.01


def new_mark() -> dict[str, str]:
    """An environment variable that marks a new family."""
    return {_MARK: secrets.token_hex(8)}


async def end_family(mark: dict[str, str], known: Iterable[int]) -> None:
    """Kills every process with the mark, and reaps those that are children of this process now.

    The first process of a container inherits all orphans.

    Args:
        known: processes of the family that may have ended already, which hides their mark.
    """
    ended = {*known, *_kill_marked(mark)}
    until = asyncio.get_running_loop().time() + _REAP_S
    while ended := {pid for pid in ended if _is_unreaped_child(pid)}:
        if asyncio.get_running_loop().time() > until:
            return
        await asyncio.sleep(_REAP_POLL_S)


def go_on(pid: int | None = None) -> list[int]:
    """Lets children of this process that were stopped go on: one, or all. Returns those that were stopped."""
    which = (os.P_ALL, 0) if pid is None else (os.P_PID, pid)
    stopped = []
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitid(*which, os.WSTOPPED | os.WNOHANG)) is not None:
            stopped.append(found.si_pid)
            os.kill(found.si_pid, signal.SIGCONT)
    return stopped


def is_starved(pid: int) -> bool:
    """Whether the process wants to run, or waits for a disk or memory, rather than for an event."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended
        return False
    return stat.rpartition(")")[2].split()[0] in "RD"


def own_children() -> set[int]:
    """Children of the calling thread, ended ones included until they are reaped. Empty if the kernel does not tell."""
    try:
        return {int(pid) for pid in Path("/proc/thread-self/children").read_text(encoding="ascii").split()}
    except OSError:
        return set()


def _kill_marked(mark: dict[str, str]) -> list[int]:
    ((name, value),) = mark.items()
    wanted = f"{name}={value}".encode()
    killed = []
    with contextlib.suppress(OSError):  # too many open files
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit() and wanted in _environment(directory):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(directory.name), signal.SIGKILL)
                    killed.append(int(directory.name))
    return killed


def _environment(directory: Path) -> list[bytes]:
    try:
        return (directory / "environ").read_bytes().split(b"\0")
    except OSError:  # it has ended, or is another user's
        return []


def _is_unreaped_child(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False
