"""The demo without Kubernetes: a server process in a cgroup of its own, sized by the operator's decision.

One server takes all runs: only who sizes it changes, and a start takes ten seconds. Where no cgroup can be made (not
root, or no CPU controller) the server's thread budget alone is sized, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path

from sponge_core.control_api import ApplyRequest, SizeRange, StateSnapshot
from sponge_demo.backend import Backend, DemoError, Endpoint, PodFacts, Say
from sponge_demo.controller import Controller
from sponge_demo.scenario import Scenario
from sponge_operator.clients.server import ControlClient, ServerError
from sponge_system.cgroup import Cgroup, CgroupError

__all__ = ["LocalBackend"]

HOST = "127.0.0.1"
SERVE = (sys.executable, "-m", "sponge_cli.main", "serve", "--log-format", "text")
READY_WITHIN_S = 180.0
END_WITHIN_S = 20.0
LOG_TAIL = 3


class LocalBackend(Backend):
    """Runs the server from the first `start` to `close`.

    Args:
        folder: for the server's log and the control token; exists.
    """

    def __init__(self, folder: Path) -> None:
        self._log = folder / "server.log"
        self._token_file = folder / "control-token"
        self._token = secrets.token_hex(16)
        self._cgroup: Cgroup | None = None
        self._without_cgroup = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._endpoint: Endpoint | None = None
        self._client: ControlClient | None = None
        self._controller: Controller | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def description(self) -> str:
        if self._without_cgroup:
            return f"this machine, by thread counts alone ({self._without_cgroup})"
        return "this machine, without Kubernetes: one server in a cgroup of its own"

    def open(self, say: Say) -> None:
        try:
            self._cgroup = Cgroup.create(f"sponge-demo-{os.getpid()}")
            self._cgroup.put_first()
        except CgroupError as error:
            self._without_cgroup = str(error)
            say(f"No CPU quota can be set here, thread counts stand in for it: {error}")
        self._token_file.touch(mode=0o600)
        self._token_file.write_text(self._token)

    async def start(self, scenario: Scenario, static_milli: int | None) -> Endpoint:
        self._set_quota(scenario.max_milli)  # loading is not what is measured
        if self._endpoint is None:
            self._endpoint = self._launch(scenario)
        self._client = await ControlClient().__aenter__()
        await self._ready()
        await self._take_over(scenario, static_milli)
        return self._endpoint

    async def facts(self) -> PodFacts:
        if self._process is None or self._process.poll() is not None:
            raise DemoError(f"the server has ended: {self._last_words()}")
        return PodFacts(self._controller.resizes if self._controller else 0, 0)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = self._controller = None
        if self._client is not None:
            await self._client.__aexit__(None, None, None)
            self._client = None

    def close(self) -> None:
        process, self._process = self._process, None
        self._set_quota(None)
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._token_file.unlink(missing_ok=True)
        if self._cgroup is not None:
            self._cgroup.remove()
            self._cgroup = None

    def _launch(self, scenario: Scenario) -> Endpoint:
        http_port, control_port = _free_ports()
        options = {
            "--model": f"{scenario.model}={scenario.source}",
            "--host": HOST,
            "--http-port": str(http_port),
            "--control-port": str(control_port),
            "--slo-ms": f"{scenario.slo_s * 1000:g}",
            "--max-batch": str(scenario.max_batch),
            "--cores": f"{scenario.max_milli}m",
            "--min-cores": f"{scenario.min_milli}m",
            "--max-cores": f"{scenario.max_milli}m",
            "--step-cores": f"{scenario.step_milli}m",
            "--profile": scenario.profile,
            "--control-token-file": str(self._token_file),
        }
        with self._log.open("wb") as sink:
            self._process = subprocess.Popen(
                [*SERVE, *(word for pair in options.items() for word in pair)],
                stdout=sink,
                stderr=sink,
                # A Ctrl-C is for the demo, which then ends the server in order.
                start_new_session=True,
            )
        if self._cgroup is not None:
            self._cgroup.add_pid(self._process.pid)
        return Endpoint(f"http://{HOST}:{http_port}", f"http://{HOST}:{control_port}", self._token)

    def _set_quota(self, milli: int | None) -> None:
        if self._cgroup is not None:
            self._cgroup.set_quota_milli(milli)

    async def _ready(self) -> None:
        assert self._process is not None
        loop = asyncio.get_running_loop()
        end = loop.time() + READY_WITHIN_S
        while (await self._state()) is None:
            if self._process.poll() is not None:
                raise DemoError(f"the server has ended: {self._last_words()}")
            if loop.time() > end:
                raise DemoError(f"the server is not ready after {READY_WITHIN_S:g} s: {self._last_words()}")
            await asyncio.sleep(0.1)

    async def _state(self) -> StateSnapshot | None:
        """The server's state once it is ready."""
        assert self._client is not None
        assert self._endpoint is not None
        with contextlib.suppress(ServerError):
            state = await self._client.state(self._endpoint.control_url, self._endpoint.token)
            return state if state.ready else None
        return None

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return f"{' / '.join(lines[-LOG_TAIL:]) or 'it said nothing'} (log: {self._log})"

    async def _take_over(self, scenario: Scenario, static_milli: int | None) -> None:
        """Hands the server to the controller, or fixes its size."""
        assert self._client is not None
        assert self._endpoint is not None
        low, high = scenario.min_milli, scenario.max_milli
        if static_milli is None:
            sizes = SizeRange(min_milli=low, max_milli=high, step_milli=scenario.step_milli)
            quota = self._set_quota if self._cgroup is not None else None
            self._controller = Controller(self._endpoint, self._client, sizes, high, quota)
            self._task = asyncio.create_task(self._controller.run())
            return
        fixed = SizeRange(min_milli=static_milli, max_milli=static_milli, step_milli=scenario.step_milli)
        state = await self._state()
        request = ApplyRequest(
            version=state.applied_version + 1 if state else 1,
            cores_milli=static_milli,
            batch_cap=scenario.max_batch,
            sizes=fixed,
        )
        try:
            await self._client.apply(self._endpoint.control_url, self._endpoint.token, request, timeout_s=10.0)
        except ServerError as error:
            raise DemoError(f"the server does not take its size: {error}") from None
        self._set_quota(static_milli)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind((HOST, 0))
        second.bind((HOST, 0))
        return first.getsockname()[1], second.getsockname()[1]
