"""The demo without Kubernetes: a server process in a cgroup of its own, sized by the operator's control loop.

Where no cgroup can be made (not root, or no CPU controller), only the server's thread budget is sized, and the
demo says so.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import subprocess
import sys
from pathlib import Path

from sponge_core.control_api import SizeRange
from sponge_core.latency import LatencyModel
from sponge_demo.backend import Backend, DemoError, Endpoint, PodFacts, Say
from sponge_demo.control import fix_size
from sponge_demo.profiles import profile_in
from sponge_demo.scenario import Scenario
from sponge_operator.autoscale.cgroup_target import CgroupTarget
from sponge_operator.autoscale.control_loop import ControlLoop, Standalone
from sponge_operator.autoscale.recommender import SizingSpec
from sponge_operator.autoscale.resize_budget import ResizeBudget
from sponge_operator.clients.server import ControlClient
from sponge_operator.resources.manifests import DEFAULT_STARTUP_MILLI
from sponge_operator.settings import OperatorSettings
from sponge_system.cgroup import Cgroup, CgroupError

__all__ = ["LocalBackend"]

HOST = "127.0.0.1"
SERVE = (sys.executable, "-m", "sponge_cli.main", "serve", "--log-format", "text")
READY_WITHIN_S = 180.0
END_WITHIN_S = 20.0
LOG_TAIL = 3
SERVING = re.compile(
    r"^sponge: serving .* at (?P<data>http://\S+) and .*\(control at (?P<control>http://\S+)\)", re.MULTILINE
)


class LocalBackend(Backend):
    """Runs the server from `start` to `close`.

    Args:
        folder: for the server's log and the control token; exists.
    """

    start_s = 18.0
    close_s = 4.0
    opening = ()

    def __init__(self, folder: Path) -> None:
        self._log = folder / "server.log"
        self._token_file = folder / "control-token"
        self._token = secrets.token_hex(16)
        self._cgroup: Cgroup | None = None
        self._without_cgroup = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._endpoint: Endpoint | None = None
        self._client: ControlClient | None = None
        self._host: Standalone | None = None
        self._task: asyncio.Task[None] | None = None
        self._scenario: Scenario | None = None
        self._target: CgroupTarget | None = None

    @property
    def description(self) -> str:
        if self._without_cgroup:
            return f"this machine, by thread counts alone ({self._without_cgroup})"
        return "this machine, without Kubernetes: one server in a cgroup of its own"

    def open(self, say: Say, enter: Say) -> None:  # noqa: ARG002 - it takes no time
        try:
            self._cgroup = Cgroup.create(f"sponge-demo-{os.getpid()}")
            self._cgroup.put_first()
        except CgroupError as error:
            self._without_cgroup = str(error)
            say(f"No CPU quota can be set here, so the number of threads is sized instead: {error}")
        self._token_file.touch(mode=0o600)
        self._token_file.write_text(self._token)

    async def start(self, scenario: Scenario) -> Endpoint:
        self._scenario = scenario
        # The quota while the server loads and measures its profile, as a pod has it by default.
        self._set_quota(DEFAULT_STARTUP_MILLI)
        self._launch(scenario)
        self._endpoint = await self._announced()
        self._target = CgroupTarget(
            self._endpoint.control_url, self._endpoint.token, DEFAULT_STARTUP_MILLI, self._cgroup
        )
        self._client = await ControlClient().__aenter__()
        return self._endpoint

    async def profile(self) -> LatencyModel:
        return profile_in(self._log.read_text(errors="replace"))

    async def hold(self, milli: int) -> None:
        assert self._client is not None
        assert self._target is not None
        assert self._scenario is not None
        await self._stop_loop()
        await fix_size(self._client, self._target, self._scenario, milli)

    async def release(self) -> None:
        assert self._client is not None
        assert self._target is not None
        assert self._scenario is not None
        sizes = SizeRange(
            min_milli=self._scenario.min_milli,
            max_milli=self._scenario.max_milli,
            step_milli=self._scenario.step_milli,
        )
        self._host = Standalone(SizingSpec(sizes, look_back_s=self._scenario.look_back_s))
        clock, budget = asyncio.get_running_loop().time, ResizeBudget(OperatorSettings().resizes_per_s)
        loop = ControlLoop(self._target, self._client, self._host, clock, budget=budget)
        self._task = asyncio.create_task(loop.run())

    async def facts(self) -> PodFacts:
        if self._process is None or self._process.poll() is not None:
            raise DemoError(f"the server has ended: {self._last_words()}")
        return PodFacts(self._host.resizes if self._host else 0, 0)

    async def stop(self) -> None:
        await self._stop_loop()
        if self._client is not None:
            await self._client.__aexit__(None, None, None)
            self._client = None

    async def _stop_loop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = self._host = None

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

    def _launch(self, scenario: Scenario) -> None:
        options = {
            "--model": f"{scenario.model}={scenario.source}",
            "--host": HOST,
            "--http-port": "0",
            "--control-port": "0",
            "--slo-ms": f"{scenario.slo_s * 1000:g}",
            "--max-batch": str(scenario.max_batch),
            "--cores": f"{DEFAULT_STARTUP_MILLI}m",
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

    def _set_quota(self, milli: int | None) -> None:
        if self._cgroup is not None:
            self._cgroup.set_quota_milli(milli)

    async def _announced(self) -> Endpoint:
        """Waits until the server says that it is ready, and where: it chooses ports that nobody else has."""
        assert self._process is not None
        loop = asyncio.get_running_loop()
        end = loop.time() + READY_WITHIN_S
        while (said := SERVING.search(self._log.read_text(errors="replace"))) is None:
            if self._process.poll() is not None:
                raise DemoError(f"the server has ended: {self._last_words()}")
            if loop.time() > end:
                raise DemoError(f"the server is not ready after {READY_WITHIN_S:g} s: {self._last_words()}")
            await asyncio.sleep(0.1)
        return Endpoint(said["data"], said["control"], self._token)

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return f"{' / '.join(lines[-LOG_TAIL:]) or 'it said nothing'} (log: {self._log})"
