"""Starts a system's server in a cgroup of its own, with whatever helpers it starts, and ends all of them.

Everything in the cgroup belongs to the server. Processes that are left in it at the end are killed.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.serving.environments import python_of
from bench.serving.systems import Knobs, System
from bench.serving.systems.interface import REPOSITORY
from sponge_cluster.layout import free_port
from sponge_core.errors import SpongeError
from sponge_system.cgroup import Cgroup

__all__ = ["Server", "ServerFailedError", "cgroup_environment", "limited", "serving"]

READY_WITHIN_S = 120.0
END_WITHIN_S = 5.0
LOG_LINES = 5
_numbers = itertools.count()


class ServerFailedError(SpongeError):
    """A server that does not start, or ended; the message quotes its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready."""

    system: System
    knobs: Knobs
    port: int
    cgroup: Cgroup
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raises ServerFailedError when it has ended."""
        if self.process.poll() is not None:
            raise ServerFailedError(f"{self.system.name} ended with {self.process.returncode}: {last_words(self.log)}")

    def cpu_s(self) -> float:
        """CPU seconds that its living processes have used."""
        total = 0.0
        for pid in self.cgroup.pids():
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                total += times.user + times.system
        return total


@contextlib.contextmanager
def limited(cores: float) -> Iterator[Cgroup]:
    """A cgroup of `cores`, whose processes are killed at the end."""
    cgroup = Cgroup.create(f"sponge-serving-{os.getpid()}-{next(_numbers)}", cores)
    try:
        yield cgroup
    finally:
        end = time.monotonic() + END_WITHIN_S
        while (pids := cgroup.pids()) and time.monotonic() < end:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        cgroup.remove()


def cgroup_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment variables of every measured process: idle OpenMP threads sleep, instead of using up the quota."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "MKL_"))}
    path = [str(REPOSITORY)]
    return {**inherited, "PYTHONPATH": os.pathsep.join(path), "OMP_WAIT_POLICY": "passive", **extra}


@contextlib.contextmanager
def serving(system: System, knobs: Knobs, cores: float, log: Path) -> Iterator[Server]:
    """A ready server.

    Args:
        log: file for what it prints.

    Raises:
        ServerFailedError: it ended, or was not ready within two minutes.
        SpongeError: its environment is missing, or no cgroup can be made.
    """
    python = python_of(system)
    port = free_port()
    launch = system.launch(python, port, knobs, cores)
    log.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        for name, text in launch.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        sink = stack.enter_context(log.open("wb"))
        cgroup = stack.enter_context(limited(cores))
        own = {"PYTHONPATH": os.pathsep.join(sys.path)} if not system.packages else {}
        process = subprocess.Popen(
            launch.argv,
            stdout=sink,
            stderr=sink,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env=cgroup_environment({**own, **system.served.environment, **launch.env}),
            start_new_session=True,
        )
        stack.callback(_end, process)
        cgroup.add_pid(process.pid)
        server = Server(system, knobs, port, cgroup, process, log)
        _wait_ready(server)
        yield server


def last_words(log: Path) -> str:
    """The end of a log, on one line."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{' / '.join(lines[-LOG_LINES:]) or 'it said nothing'} (log: {log})"


def _wait_ready(server: Server) -> None:
    end = time.monotonic() + READY_WITHIN_S
    while not _answers(server.port, server.system.ready_path):
        server.check()
        if time.monotonic() > end:
            raise ServerFailedError(
                f"{server.system.name} is not ready after {READY_WITHIN_S:g} s: {last_words(server.log)}"
            )
        time.sleep(0.1)


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
