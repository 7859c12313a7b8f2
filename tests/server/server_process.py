"""A real `sponge serve` process for tests: starts it, waits until it is ready, talks to it, ends it."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import grpc

TOKEN = "the-token"
START_TIMEOUT_S = 90.0

PROFILE = """
name: test
model: test
origin: fitted
source: made up for tests
machine: any
percentile: 95
max_batch: 8
coefficients_ms: {gamma: %(gamma)s, delta: 0.0, epsilon: 0.0, eta: 1.0}
error: {p50: 0.0, p90: 0.0, max: 0.0}
points:
  - {batch: 1, threads: 1, p95_ms: %(one)s}
"""


class Reply:
    """An HTTP answer."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ServerProcess:
    """One server. `data` and `control` are the URLs of its ports, `grpc` is host and port of the third."""

    logs: ClassVar[list[Path]] = []  # of all that were started

    def __init__(
        self,
        directory: Path,
        *options: str,
        gamma_ms: float = 5.0,
        profile: str | None = None,
        token: bool = True,
        cgroup: Path | None = None,
        trust: ssl.SSLContext | None = None,
        start_s: float = START_TIMEOUT_S,
    ) -> None:
        """`gamma_ms` is the profile's time per row; `profile` replaces the profile; `cgroup` is where it starts.

        `trust` verifies the certificate of a server that has one. `start_s` is how long a start may take.
        """
        self._start_s = start_s
        self._trust = trust
        self.errors = directory / "stderr"
        if profile is None:
            path = directory / "profile.yaml"
            path.write_text(PROFILE % {"gamma": gamma_ms, "one": gamma_ms + 1.0})
            profile = str(path)
        command = [sys.executable, "-m", "sponge_cli.main", "serve", "--http-port", "0", "--control-port", "0"]
        command += ["--profile", profile, *options]
        if token:
            (directory / "token").write_text(TOKEN + "\n")
            command += ["--control-token-file", str(directory / "token")]
        if cgroup is not None:
            command = ["sh", "-c", 'echo $$ > "$0"/cgroup.procs; exec "$@"', str(cgroup), *command]
        places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True)
        self.logs.append(self.errors)
        self.line = self._first_line()
        addresses = re.findall(r"https?://[\d.]+:\d+", self.line)
        if len(addresses) != 2:
            self.process.kill()  # nobody would stop it
        assert len(addresses) == 2, f"no ready line but {self.line!r}; stderr: {self.errors.read_text()}"
        self.data, self.control = addresses
        found = re.search(r"grpcs?://(\S+)", self.line)
        assert found is not None, f"no gRPC address in {self.line!r}"
        self.grpc = found[1]

    def _first_line(self) -> str:
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        until = time.monotonic() + self._start_s
        while time.monotonic() < until and self.process.poll() is None:
            line = self.process.stdout.readline()
            if line:
                return line
            time.sleep(0.02)
        return ""

    def request(
        self, url: str, body: bytes | None = None, headers: dict[str, str] | None = None, method: str | None = None
    ) -> Reply:
        request = urllib.request.Request(url, data=body, headers=headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60, context=self._trust) as response:
                return Reply(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.headers, error.read())

    def get(self, path: str, **headers: str) -> Reply:
        return self.request(self.data + path, headers=headers)

    def infer(self, model: str, document: Any, **headers: str) -> Reply:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        given = {"content-type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return self.request(f"{self.data}/v2/models/{model}/infer", body, given)

    def call(self, method: str, message: bytes) -> bytes:
        """One call of the inference service over gRPC, as bytes. Raises grpc.RpcError."""
        with grpc.insecure_channel(self.grpc) as channel:
            call: Any = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            answer: bytes = call(message, timeout=60)
        return answer

    def command(self, command: int, **headers: str) -> Reply:
        """One request to the commanded model."""
        return self.infer("m", command_body(command), **headers)

    def ask(self, path: str, body: Any = None, token: str | None = TOKEN) -> Reply:
        """A request to the control port."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return self.request(self.control + path, None if body is None else json.dumps(body).encode(), headers)

    def metric(self, name: str) -> float:
        """The value of one sample of the exposition, named with its labels. Raises KeyError if it is not there."""
        for line in self.ask("/metrics").body.decode().splitlines():
            sample, _, value = line.rpartition(" ")
            if sample == name:
                return float(value)
        raise KeyError(name)

    def stop(self) -> int:
        """SIGTERM, then the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40)


def command_body(command: int, **rest: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "command", "datatype": "INT64", "shape": [1, 1], "data": [command]}], **rest}


def oom_score(pid: int) -> int:
    """What the kernel adds to the score of a process when memory runs out."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def eventually(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Waits until the condition holds; fails when it does not within the time."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.01)
