"""A whole front for tests: real servers of the commanded model, and before them the picker and Envoy, on loopback."""

from __future__ import annotations

import contextlib
import json
import signal
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import pytest
from bench.live_front import LiveFront, pod_option
from server_process import Reply, ServerProcess, command_body

from sponge_core.routing.pod_table import Ending

__all__ = ["FrontProcess", "answered", "pods", "servers"]

OPTIONS = ("--slo-ms", "2000", "--max-lanes", "1", "--grpc-port", "0")


@contextlib.contextmanager
def servers(
    directory: Path,
    count: int,
    *options: str,
    model: str = "commanded_model:factory",
    trust: ssl.SSLContext | None = None,
) -> Iterator[list[ServerProcess]]:
    """Context of some servers with one lane each; `trust`: for their certificate, if the options give one."""

    def start(index: int) -> ServerProcess:
        place = directory / f"server{index}"
        place.mkdir()
        return ServerProcess(place, "--model", f"m=python://{model}", *OPTIONS, *options, trust=trust)

    with ThreadPoolExecutor(count) as pool:
        running = list(pool.map(start, range(count)))
    try:
        yield running
    finally:
        for each in running:
            each.process.send_signal(signal.SIGCONT)
            each.process.kill()
            each.process.wait()


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    """Two servers for all tests of a module."""
    with servers(tmp_path_factory.mktemp("pods"), 2) as running:
        yield running


class FrontProcess(LiveFront):
    """A front before some of them."""

    def __init__(
        self,
        pods: Sequence[ServerProcess],
        *options: str,
        controls: Sequence[str] | None = None,
        pick_timeout_ms: float,
        proxy_options: Sequence[str] = (),
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """`controls`: where it reads the load; None: from the pods themselves. `trust`: for its certificate, if any."""
        places = controls or [pod.control for pod in pods]
        named = [pod_option(pod.data, pod.grpc, control) for pod, control in zip(pods, places, strict=True)]
        token_file = pods[0].errors.parent / "token"
        super().__init__(named, token_file, *options, pick_timeout_ms=pick_timeout_ms, proxy_options=proxy_options)
        self.trust = trust

    def endings(self) -> dict[str, int]:
        """Number of requests by how they ended, without those of which there were none."""
        found = {kind: int(self.metric(f'sponge_front_requests_total{{ending="{kind}"}}')) for kind in get_args(Ending)}
        return {kind: count for kind, count in found.items() if count}

    def command(self, command: int, **headers: str) -> Reply:
        """One request to the commanded model."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(
            f"{'http' if self.trust is None else 'https'}://127.0.0.1:{self.http}/v2/models/m/infer",
            data=json.dumps(command_body(command)).encode(),
            headers={"content-type": "application/json", **given},
        )
        try:
            with urllib.request.urlopen(request, timeout=60, context=self.trust) as response:
                return Reply(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.headers, error.read())


def answered(server: ServerProcess) -> int:
    """Requests that the server has answered."""
    outcomes: dict[str, Any] = server.ask("/control/v1/state").json["outcomes"]
    return int(outcomes["in_time"] + outcomes["late"])
