"""A whole front for tests: real servers, the picker and Envoy as processes on loopback."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from server_process import Reply, ServerProcess, command_body, eventually

MODEL = ("--model", "m=python://commanded_model:factory", "--slo-ms", "2000", "--max-lanes", "1", "--grpc-port", "0")


def envoy_program() -> str:
    """Envoy from its wheel, beside the interpreter."""
    return shutil.which("envoy", path=str(Path(sys.executable).parent)) or "envoy"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def servers(directory: Path, count: int, *options: str) -> Iterator[list[ServerProcess]]:
    """Context of some servers of the commanded model, with one lane each."""

    def start(index: int) -> ServerProcess:
        place = directory / f"server{index}"
        place.mkdir()
        return ServerProcess(place, *MODEL, *options)

    with ThreadPoolExecutor(count) as pool:
        running = list(pool.map(start, range(count)))
    try:
        yield running
    finally:
        for each in running:
            each.process.send_signal(signal.SIGCONT)
            each.process.kill()
            each.process.wait()


def pod_of(server: ServerProcess) -> str:
    """The server as the command line names a pod."""
    ports = [address.rpartition(":")[2] for address in (server.data, server.grpc, server.control)]
    return ",".join(("127.0.0.1", *ports))


class FrontProcess:
    """Picker and Envoy before some pods; `pods` as the command line names them. Use as a context manager."""

    def __init__(
        self, directory: Path, pods: Sequence[str], token_file: Path, *options: str, pick_timeout_ms: int = 1000
    ) -> None:
        self._directory = directory / "front"
        self.http, self.grpc, self.status, self.picker_status = (free_port() for _ in range(4))
        self._command = [sys.executable, "-m", "sponge_cli.main", "front"]
        place = ["--directory", str(self._directory)]
        subprocess.run(
            [
                *(*self._command, "envoy-config", *place, "--write", "--host", "127.0.0.1"),
                *("--http-port", str(self.http), "--grpc-port", str(self.grpc), "--status-port", str(self.status)),
                *("--pick-timeout-ms", str(pick_timeout_ms)),
            ],
            check=True,
            capture_output=True,
        )
        self._run = [*self._command, "run", *place, "--token-file", str(token_file), *options]
        self._run += ["--status-port", str(self.picker_status)]
        self._run += [word for pod in pods for word in ("--pod", pod)]
        self._log = (self._directory / "log").open("wb")
        self.picker = self._start_picker()
        arguments = ["--config-path", str(self._directory / "envoy.json"), "--concurrency", "1"]
        arguments += ["--use-dynamic-base-id", "--log-level", "warning"]
        self.envoy = subprocess.Popen([envoy_program(), *arguments], stderr=self._log)

    def _start_picker(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._run, stderr=self._log)

    def __enter__(self) -> FrontProcess:
        try:
            eventually(self._is_ready)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.envoy, self.picker):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        self._log.close()

    def restart_picker(self) -> None:
        self.picker.wait()
        self.picker = self._start_picker()

    def _is_ready(self) -> bool:
        """Every pod's load is known, and Envoy takes the picker and the pods for healthy."""
        with contextlib.suppress(OSError):
            return self.metric("sponge_front_pods_reporting") == self._pods and self._envoy_is_ready()
        return False

    @property
    def _pods(self) -> int:
        return self._run.count("--pod")

    def _envoy_is_ready(self) -> bool:
        healthy = {
            cluster: self.envoy_stat(f'envoy_cluster_membership_healthy{{envoy_cluster_name="{cluster}"}}')
            for cluster in ("picker", "pods-http", "pods-grpc")
        }
        return healthy == {"picker": 1, "pods-http": self._pods, "pods-grpc": self._pods}

    def metric(self, name: str) -> float:
        """A sample of the picker's metrics."""
        return _sample(f"http://127.0.0.1:{self.picker_status}/metrics", name)

    def envoy_stat(self, name: str) -> float:
        """A sample of Envoy's metrics."""
        return _sample(f"http://127.0.0.1:{self.status}/stats/prometheus", name)

    def endings(self) -> dict[str, int]:
        """Number of requests by how they ended, without those of which there were none."""
        kinds = ("answered", "refused", "failed", "cancelled")
        found = {kind: int(self.metric(f'sponge_front_requests_total{{ending="{kind}"}}')) for kind in kinds}
        return {kind: count for kind, count in found.items() if count}

    def command(self, command: int, **headers: str) -> Reply:
        """One request to the commanded model."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return post(f"http://127.0.0.1:{self.http}/v2/models/m/infer", command_body(command), given)


def post(url: str, document: Any, headers: dict[str, str] | None = None) -> Reply:
    request = urllib.request.Request(
        url, data=json.dumps(document).encode(), headers={"content-type": "application/json", **(headers or {})}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return Reply(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        return Reply(error.code, error.headers, error.read())


def answered(server: ServerProcess) -> int:
    """Requests that the server has answered in time."""
    outcomes: dict[str, int] = server.ask("/control/v1/state").json["outcomes"]
    return outcomes["in_time"] + outcomes["late"]


def _sample(url: str, name: str) -> float:
    with urllib.request.urlopen(url, timeout=10) as response:
        for line in response.read().decode().splitlines():
            sample, _, value = line.rpartition(" ")
            if sample == name:
                return float(value)
    raise KeyError(name)
