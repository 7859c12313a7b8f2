"""Runs a function in a fork of this process, so that it cannot affect the process itself.

The fork server uses it, because it must not run a model itself. A crash or hang of the function is reported as such.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable

from sponge_core.errors import SpongeError
from sponge_server.workers.interface import ModelError
from sponge_server.workers.ipc import Message, receive, send

__all__ = ["end_process", "forked_call", "how_it_ended"]


def forked_call(function: Callable[[], Message], timeout_s: float, doing: str) -> Message:
    """The result of `function` in a fork. A SpongeError that it raises there is raised here as ModelError.

    Args:
        timeout_s: the fork is killed after this time.
        doing: the model's input, as in "an example input", for error messages.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        end_process(lambda: _answer(function, theirs))
    theirs.close()
    ours.settimeout(timeout_s)
    try:
        answer = receive(ours)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        raise ModelError(f"the model takes more than {timeout_s:g} s for {doing}") from None
    finally:
        ours.close()
        _, status = os.waitpid(pid, 0)
    if answer is None:
        raise ModelError(f"the model kills its process on {doing} ({how_it_ended(status)})")
    if "failed" in answer[0]:
        raise ModelError(str(answer[0]["failed"]))
    return answer[0]


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


def how_it_ended(status: int) -> str:
    """An exit status of `waitpid` in words."""
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        return "killed by SIGKILL: out of memory, hung, or by hand"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _answer(function: Callable[[], Message], sock: socket.socket) -> None:
    try:
        send(sock, function())
    except SpongeError as error:
        send(sock, {"failed": str(error)})
