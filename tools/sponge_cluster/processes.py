"""Starts, identifies and stops processes, and never signals any other process.

A process is identified by its pid and the kernel tick of its start, because the kernel reuses pids. Signals go through
a pidfd that is opened before the start tick is compared, so the pid cannot change its owner in between. A pidfd also
becomes readable when the process is dead but not yet reaped, which can last on a machine whose init does not reap.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sponge_cluster.errors import ClusterError

__all__ = [
    "ProcessId",
    "alive",
    "check",
    "identify",
    "parse_stat",
    "send_signal",
    "spawn",
    "stop",
    "tail",
    "wait_until",
]

_KILL_WAIT_S = 10.0  # a killed process ends as soon as the kernel releases it


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A unique process: `started` is in kernel ticks since boot."""

    pid: int
    started: int


def parse_stat(text: str) -> tuple[str, int]:
    """The state letter and the start tick of a /proc/PID/stat line, whose command may hold spaces and brackets."""
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


def identify(pid: int) -> ProcessId | None:
    """The identity of a running process; None if there is none, or only a zombie."""
    try:
        state, started = parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else ProcessId(pid, started)


def alive(process: ProcessId) -> bool:
    """Whether this very process still runs."""
    return identify(process.pid) == process


def spawn(argv: Sequence[str], *, log: Path, env: Mapping[str, str], cwd: Path) -> ProcessId:
    """Starts a daemon in its own session, so that Ctrl-C on the terminal does not reach it; its output goes to `log`.

    Raises:
        ClusterError: it cannot start, or ended at once.
    """
    with log.open("ab") as out:
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            raise ClusterError(f"cannot start {argv[0]}: {error}") from error
    process = identify(child.pid)
    if process is None:
        raise ClusterError(f"{Path(argv[0]).name} ended at once: {tail(log)}")
    # The daemon outlives this process. Without this, Popen warns that its child still runs.
    child.returncode = 0
    return process


def send_signal(process: ProcessId, signum: signal.Signals) -> None:
    """Sends a signal to this very process, if it still runs."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(process.pid)
        try:
            if alive(process):
                signal.pidfd_send_signal(fd, signum)
        finally:
            os.close(fd)


def stop(processes: Iterable[ProcessId], grace_s: float) -> None:
    """Terminates the processes, and kills those that have not ended after `grace_s` seconds (0: kills at once).

    Raises:
        ClusterError: one of them survived even SIGKILL for 10 s.
    """
    fds: dict[int, ProcessId] = {}
    try:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(process.pid)
                if alive(process):
                    fds[fd] = process
                else:
                    os.close(fd)
        rest = dict(fds)
        for signum, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILL_WAIT_S)):
            if signum is signal.SIGTERM and grace_s <= 0:
                continue
            for fd in rest:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signum)
            rest = _wait_for_exit(rest, wait_s)
        if rest:
            raise ClusterError(
                f"processes {sorted(p.pid for p in rest.values())} do not end, even after SIGKILL; see dmesg"
            )
    finally:
        for fd in fds:
            os.close(fd)


def _wait_for_exit(fds: dict[int, ProcessId], wait_s: float) -> dict[int, ProcessId]:
    rest = dict(fds)
    poll = select.poll()
    for fd in rest:
        poll.register(fd, select.POLLIN)
    until = time.monotonic() + wait_s
    while rest and (left_s := until - time.monotonic()) > 0:
        for fd, _ in poll.poll(left_s * 1000):
            poll.unregister(fd)
            process = rest.pop(fd)
            # Reaps it if it is a child of this process (in a test, or after an `up` that failed).
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
    return rest


def check(
    argv: Sequence[str],
    *,
    input_text: str | None = None,
    timeout_s: float = 60.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Runs a short command and returns its stdout.

    Raises:
        ClusterError: it is missing, failed, or took longer than `timeout_s` seconds.
    """
    shown = " ".join(argv[:6])
    try:
        done = subprocess.run(
            argv, input=input_text, capture_output=True, text=True, timeout=timeout_s, env=env, cwd=cwd, check=False
        )
    except OSError as error:
        raise ClusterError(f"cannot run `{shown}`: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"`{shown}` did not end within {timeout_s:.0f} s") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ClusterError(f"`{shown}` failed: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout


def tail(log: Path) -> str:
    """The last line of a log."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except FileNotFoundError:
        lines = []
    return lines[-1].strip() if lines else "(it said nothing)"


def wait_until(
    condition: Callable[[], bool], what: str, *, timeout_s: float, guard: Callable[[], None] = lambda: None
) -> None:
    """Waits for a condition and checks it every 50 ms; `guard` may raise an error to end the waiting.

    Raises:
        ClusterError: the condition was not met within `timeout_s` seconds.
    """
    until = time.monotonic() + timeout_s
    while not condition():
        guard()
        if time.monotonic() > until:
            raise ClusterError(f"{what} did not happen within {timeout_s:.0f} s")
        time.sleep(0.05)
