"""Runs a function in a fork of this process, so that it cannot affect the process itself.

The fork server uses it, because it must not run a model itself. A crash or hang of the function is reported as such.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable

from sponge_core.errors import SpongeError
from sponge_server.workers.interface import ModelError
from sponge_server.workers.ipc import Message, receive, send

__all__ = ["end_process", "fork_leader", "forked_call", "how_it_ended", "kill_group"]

_POLL_S = 0.05


def forked_call(function: Callable[[], Message], timeout_s: float, doing: str, setting: str = "") -> Message:
    """The result of `function` in a fork. A SpongeError that it raises there is raised here as ModelError.

    Args:
        timeout_s: the fork is killed after this time.
        doing: the model's input, as in "an example input", for error messages.
        setting: the option that gives it more time, if there is one.
    """
    ours, theirs = socket.socketpair()
    pid = fork_leader()
    if pid == 0:
        ours.close()
        end_process(lambda: _answer(function, theirs))
    theirs.close()
    ours.settimeout(timeout_s)  # for the rest of an answer that has begun
    status: int | None = None
    try:
        answered, status = _wait(ours, pid, timeout_s)
        answer = receive(ours) if answered else None
    except TimeoutError:
        text = f"the model takes more than {timeout_s:g} s for {doing}: it hangs, or it needs more CPU"
        raise ModelError(f"{text} or a larger {setting}" if setting else text) from None
    finally:
        ours.close()
        kill_group(pid)
        if status is None:
            _, status = os.waitpid(pid, 0)
    if answer is None:
        raise ModelError(f"the model kills its process on {doing} ({how_it_ended(status)}): {_mend(status)}")
    if "failed" in answer[0]:
        raise ModelError(str(answer[0]["failed"]))
    return answer[0]


def fork_leader() -> int:
    """Forks; the new process leads a process group, which `kill_group` ends. Returns as `os.fork`; raises OSError."""
    pid = os.fork()
    with contextlib.suppress(OSError):  # both sides, because either may be the first to go on
        os.setpgid(pid, pid)
    return pid


def end_process(function: Callable[[], None]) -> None:
    """Runs `function` and ends this forked process."""
    code = 1
    try:
        function()
        code = 0
    except BaseException:  # noqa: BLE001 - no caller may continue in a fork
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def kill_group(pid: int) -> None:
    """Kills a process of `fork_leader` and what its model has forked, as far as they still run."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def how_it_ended(status: int) -> str:
    """An exit status of `waitpid` in words."""
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        return "killed by SIGKILL: out of memory, hung, or by hand"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _mend(status: int) -> str:
    """What to look for after such an end."""
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        return "give it more memory, or a smaller input"
    if code < 0:
        return "native code of a library crashes; run the model alone with python -X faulthandler to see where"
    return "it, or a library that it calls, ends the process (sys.exit, os._exit); raise an exception instead"


def _wait(ours: socket.socket, pid: int, timeout_s: float) -> tuple[bool, int | None]:
    """Whether an answer has begun, and the status of the process if it has ended without one.

    The socket alone does not show the end of a process whose model has forked children: they hold the other end too.
    Raises TimeoutError.
    """
    until = time.monotonic() + timeout_s
    while True:
        readable, _, _ = select.select([ours], [], [], _POLL_S)
        if readable:
            return True, None
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            readable, _, _ = select.select([ours], [], [], 0)
            return bool(readable), status
        if time.monotonic() > until:
            raise TimeoutError


def _answer(function: Callable[[], Message], sock: socket.socket) -> None:
    # A fork has none of the threads that torch had before; a parallel loop would wait for them for ever.
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    try:
        send(sock, function())
    except SpongeError as error:
        send(sock, {"failed": str(error)})
    except Exception as error:  # noqa: BLE001 - a library may raise anything, and the process that waits shall hear of it
        traceback.print_exc()
        text = (str(error).strip().splitlines() or [""])[0]
        send(sock, {"failed": f"{type(error).__name__}: {text}; the lines of Python are in the log"})
