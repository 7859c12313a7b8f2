"""A real `sponge serve` in a CPU cgroup of its own: starts it, waits until it is ready, reads it, resizes it, stops it.

What every experiment on the server alone shares. Knows nothing of load or of what is measured.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.scraping import scraped
from sponge_core.control_api import ApplyRequest, ProfileReport, SizeRange, StateSnapshot
from sponge_core.errors import SpongeError
from sponge_operator.autoscale.cgroup_target import CgroupTarget
from sponge_operator.autoscale.resizer import bring_to
from sponge_operator.clients.server import ControlClient
from sponge_system.cgroup import Cgroup

__all__ = ["MODEL", "SOURCE", "LiveServer", "process_cpu_s"]

MODEL, SOURCE = "resnet18", "torchvision://resnet18?weights=none"
READY_WITHIN_S = 120.0
END_WITHIN_S = 45.0
LOG_TAIL = 5
APPLY_TIMEOUT_S = 20.0


class LiveServer:
    """One server from `with` to its end. Needs root, for the cgroup.

    Args:
        cores: quota at the start, and the server's largest size unless `options` say otherwise.
        options: further options of `sponge serve`.
        model, source: what it serves.
        log: where its stderr goes; a temporary file by default.
        program: the module that has the command, and what goes before `serve`.
        number: tells several servers of one experiment apart.
        token: of its control port; a random one by default.
    """

    def __init__(
        self,
        cores: float,
        *options: str,
        model: str = MODEL,
        source: str = SOURCE,
        log: Path | None = None,
        program: Sequence[str] = ("sponge_cli.main",),
        number: int = 0,
        token: str | None = None,
    ) -> None:
        self.cores = cores
        self.model = model
        self._options = ("--model", f"{model}={source}", "--cores", f"{cores:g}", *options)
        self._folder = tempfile.TemporaryDirectory(prefix="sponge-bench-")
        self.log = log or Path(self._folder.name) / "log"
        self._program = program
        self.token = token or os.urandom(8).hex()
        self._cgroup_name = f"sponge-bench-{os.getpid()}-{number}"
        self._version = 0

    def __enter__(self) -> Self:
        self.cgroup = Cgroup.create(self._cgroup_name, self.cores)
        self.cgroup.put_first()
        self.token_file = token_file = Path(self._folder.name) / "token"
        token_file.write_text(self.token)
        command = [sys.executable, "-m", *self._program, "serve", "--http-port", "0", "--control-port", "0"]
        command += ["--grpc-port", "0", "--control-token-file", str(token_file), *self._options]
        # It moves itself before it starts: what it forks and reads of its quota is right from the first moment.
        command = ["sh", "-c", 'echo $$ > "$0"/cgroup.procs; exec "$@"', str(self.cgroup.path), *command]
        with self.log.open("wb") as sink:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=sink, text=True, start_new_session=True
            )
        try:
            line = self._first_line()
            addresses, calls = re.findall(r"http://[\d.]+:\d+", line), re.search(r"grpc://(\S+)", line)
            if len(addresses) != 2 or calls is None:
                words = " / ".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL:])
                raise SpongeError(f"the server is not ready after {READY_WITHIN_S:g} s: {words or 'it said nothing'}")
            self.url, self.control_url = addresses
            self.grpc = calls[1]
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        """Of the HTTP process."""
        return self._process.pid

    def pids(self) -> list[int]:
        """All its processes: HTTP, fork server and lanes."""
        return self.cgroup.pids()

    def lane_pids(self) -> list[int]:
        """The processes that compute: the server's grandchildren, because the fork server forks them."""
        return [pid for pid in self.pids() if _parent(_parent(pid)) == self.pid]

    def cpu_s(self) -> float:
        """CPU seconds of all its processes so far; of those that live, which while it serves is all of them."""
        return sum(process_cpu_s(pid) for pid in self.pids())

    def http_cpu_s(self) -> float:
        """CPU seconds of the HTTP process alone."""
        return process_cpu_s(self.pid)

    def metrics(self) -> dict[str, float]:
        """Every sample of its exposition by name and labels."""
        return scraped(f"{self.control_url}/metrics")

    def events(self, name: str) -> list[dict[str, Any]]:
        """The fields of what it logged under this name so far."""
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == name]

    def state(self) -> StateSnapshot:
        """Its state now."""
        return StateSnapshot.model_validate_json(self._control("state"))

    def profile(self) -> ProfileReport:
        """Where its latency profile comes from, and its text."""
        return ProfileReport.model_validate_json(self._control("profile"))

    def _control(self, name: str) -> bytes:
        request = urllib.request.Request(
            f"{self.control_url}/control/v1/{name}", headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    async def resize(self, client: ControlClient, milli: int, batch_cap: int, sizes: SizeRange | None = None) -> None:
        """As the operator does: growing, the quota goes first; shrinking, it waits for the running batches."""
        self._version += 1
        goal = ApplyRequest(version=self._version, cores_milli=milli, batch_cap=batch_cap, sizes=sizes)
        target = CgroupTarget(self.control_url, self.token, round(self.cores * 1000), self.cgroup)
        await bring_to(target, client, goal, APPLY_TIMEOUT_S)

    def _first_line(self) -> str:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return self._process.stdout.readline() if selector.select(READY_WITHIN_S) else ""

    def _end(self) -> None:
        self.cgroup.set_quota_milli(None)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        end = time.monotonic() + END_WITHIN_S
        while self.cgroup.pids() and time.monotonic() < end:
            time.sleep(0.01)
        self.cgroup.remove()
        self._folder.cleanup()


def process_cpu_s(pid: int) -> float:
    """To the nanosecond: an idle process uses less than the ticks that the usual files count in."""
    return sum(
        int(stat.read_text(encoding="ascii").split()[0]) / 1e9 for stat in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])
    except OSError:
        return 0  # ended meanwhile
