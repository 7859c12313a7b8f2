"""A real front before servers on this machine: starts picker and Envoy, reads them, ends them."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

from bench.live_server import LiveServer
from bench.scraping import scraped
from sponge_cluster.layout import free_port
from sponge_core.routing.registry import RuleName

__all__ = ["LiveFront", "envoy_program", "front_of", "pod_option", "start_envoy"]

READY_WITHIN_S = 60.0
IN_TURN = "envoy_http_ext_proc_failure_mode_allowed"


def pod_option(url: str, grpc: str, control_url: str) -> str:
    """A server as `sponge front run --pod` names it."""
    return ",".join(("127.0.0.1", *(address.rpartition(":")[2] for address in (url, grpc, control_url))))


def envoy_program() -> str:
    """Envoy from its wheel, beside the interpreter."""
    return shutil.which("envoy", path=str(Path(sys.executable).parent)) or "envoy"


def start_envoy(directory: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Envoy with the bootstrap in a directory."""
    arguments = ["--config-path", str(directory / "envoy.json"), "--concurrency", "1", "--use-dynamic-base-id"]
    arguments += ["--log-level", "warning", "--component-log-level", "ext_proc:error"]
    return subprocess.Popen([envoy_program(), *arguments], stderr=log)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


class LiveFront:
    """One front from `with` to its end.

    Args:
        pods: as `pod_option` names them.
        token_file: the token of their control ports.
        options: further ones of `sponge front run`.
        proxy_options: further ones of `sponge front envoy-config`.

    Attributes:
        pods: as given.
        picker, envoy: the processes.
        http, grpc, status, picker_status: their ports.
    """

    def __init__(
        self,
        pods: Sequence[str],
        token_file: Path,
        *options: str,
        pick_timeout_ms: float = 8.0,
        proxy_options: Sequence[str] = (),
    ) -> None:
        self.pods = pods
        self._folder = tempfile.TemporaryDirectory(prefix="sponge-front-")
        self.directory = Path(self._folder.name)
        self.http, self.grpc, self.status, self.picker_status = (free_port() for _ in range(4))
        command = [sys.executable, "-m", "sponge_cli.main", "front"]
        place = ["--directory", str(self.directory)]
        self._prepare = [*command, "envoy-config", *place, "--write", "--host", "127.0.0.1"]
        self._prepare += ["--http-port", str(self.http), "--grpc-port", str(self.grpc)]
        self._prepare += ["--status-port", str(self.status), "--pick-timeout-ms", f"{pick_timeout_ms:g}"]
        self._prepare += proxy_options
        self._run = [*command, "run", *place, "--token-file", str(token_file), *options]
        self._run += ["--status-port", str(self.picker_status)]
        self._run += [word for pod in pods for word in ("--pod", pod)]

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._folder.cleanup)
            subprocess.run(self._prepare, check=True, capture_output=True)
            self._log = stack.enter_context((self.directory / "log").open("wb"))
            self.start_picker()
            stack.callback(lambda: _end(self.picker))  # the one of then: it may be started anew
            self.envoy = start_envoy(self.directory, self._log)
            stack.callback(_end, self.envoy)
            until = time.monotonic() + READY_WITHIN_S
            while not self.is_ready():
                if time.monotonic() > until or self.envoy.poll() is not None:
                    raise TimeoutError(f"the front is not ready: {(self.directory / 'log').read_text()[-500:]}")
                time.sleep(0.05)
            self._ending = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def start_picker(self) -> None:
        """Starts the picker, at first or anew."""
        self.picker = subprocess.Popen(self._run, stderr=self._log)

    def is_ready(self) -> bool:
        """Every pod's load is known, and Envoy takes the picker and the pods for healthy."""
        count = len(self.pods)
        wanted = {"picker": 1, "pods-http": count, "pods-grpc": count}
        with contextlib.suppress(OSError, KeyError):
            return self.metric("sponge_front_pods_reporting") == count and all(
                self.healthy(cluster) == number for cluster, number in wanted.items()
            )
        return False

    def healthy(self, cluster: str) -> float:
        """How many members of one of its clusters Envoy takes for healthy."""
        name = f'envoy_cluster_membership_healthy{{envoy_cluster_name="{cluster}"}}'
        return scraped(f"http://127.0.0.1:{self.status}/stats/prometheus")[name]

    def in_turn(self) -> int:
        """How many requests went to the pods in turn so far, as the picker was away or late."""
        samples = scraped(f"http://127.0.0.1:{self.status}/stats/prometheus")
        return round(sum(count for name, count in samples.items() if name.startswith(IN_TURN)))

    def metric(self, name: str) -> float:
        """A sample of the picker's metrics, named with its labels. Raises KeyError, OSError."""
        return scraped(f"http://127.0.0.1:{self.picker_status}/metrics")[name]


def front_of(servers: Sequence[LiveServer], rule: RuleName) -> LiveFront:
    """A front before these servers, which share a token."""
    pods = [pod_option(server.url, server.grpc, server.control_url) for server in servers]
    return LiveFront(pods, servers[0].token_file, "--rule", rule)
