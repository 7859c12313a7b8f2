"""Starting processes, knowing them again, and stopping them - and never anybody else's.

A process is known by its pid *and* the kernel tick at which it started: a pid alone may belong to a stranger by the
time we come back to it. Signals go through a pidfd that was opened before the start tick was compared, so there is no
moment in which the pid could change hands. A pidfd also becomes readable when the process is dead but not yet reaped,
which on a machine without an init that reaps may be for long. Knows nothing of Kubernetes.
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

__all__ = ["ProcessId", "alive", "check", "identify", "parse_stat", "spawn", "stop", "tail", "wait_until"]

_KILL_WAIT_S = 10.0  # a SIGKILLed process goes as soon as the kernel lets go of it


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that cannot be mistaken: `started` is in kernel ticks since boot."""

    pid: int
    started: int


def parse_stat(text: str) -> tuple[str, int]:
    """The state letter and the start tick of a /proc/PID/stat line; the command in it may hold spaces and brackets."""
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


def identify(pid: int) -> ProcessId | None:
    """The identity of a running process, or None where there is none (a zombie is none)."""
    try:
        state, started = parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else ProcessId(pid, started)


def alive(process: ProcessId) -> bool:
    """Whether this very process still runs."""
    return identify(process.pid) == process


def spawn(argv: Sequence[str], *, log: Path, env: Mapping[str, str], cwd: Path) -> ProcessId:
    """Starts a daemon in a session of its own, so that Ctrl-C on the terminal does not reach it; output goes to `log`.

    Raises:
        ClusterError: it cannot be started, or ended before it could be looked at.
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
    # The daemon outlives us and is followed by its identity; without this, Popen warns that its child still runs.
    child.returncode = 0
    return process


def stop(processes: Iterable[ProcessId], grace_s: float) -> None:
    """Asks all of them to end, and kills those that have not ended after `grace_s` seconds (0: at once).

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
                f"processes {sorted(p.pid for p in rest.values())} do not end, even when killed; see dmesg"
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
            # Reap it where it is a child of ours (a test, an `up` that failed); elsewhere it is not ours to reap.
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
    """Waits for a condition, looking every 50 ms; `guard` may raise when waiting has become pointless.

    Raises:
        ClusterError: it did not hold within `timeout_s` seconds.
    """
    until = time.monotonic() + timeout_s
    while not condition():
        guard()
        if time.monotonic() > until:
            raise ClusterError(f"{what} did not happen within {timeout_s:.0f} s")
        time.sleep(0.05)
