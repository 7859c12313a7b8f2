"""Real servers for stock clients, and an environment of its own for the client that needs one."""

from __future__ import annotations

import base64
import fcntl
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drivers import DRIVERS, Ask, Driver, Reply
from server_process import ServerProcess

from sponge_system.cache_folder import cache_root

__all__ = ["Client", "Remote", "client", "kserve_process", "model_server"]

HERE = Path(__file__).parent


KSERVE = "0.21.0"


class Remote:
    """A driver in another environment's Python."""

    def __init__(self, process: subprocess.Popen[str], name: str, server: ServerProcess) -> None:
        self.process = process
        self.address = (name, server.data.removeprefix("http://"), server.grpc)

    def __getattr__(self, what: str) -> Any:
        return lambda argument: self._ask(what, argument)

    def _ask(self, what: str, argument: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        question = pickle.dumps((what, *self.address, argument))
        self.process.stdin.write(base64.b64encode(question).decode() + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the client's process has ended"
        answer = pickle.loads(base64.b64decode(line))
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(scope="session")
def kserve_process() -> Iterator[subprocess.Popen[str]]:
    cache = cache_root()
    cache.mkdir(parents=True, exist_ok=True)
    place = cache / f"client-kserve-{KSERVE}"
    with (cache / "client-kserve.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            uv = [sys.executable, "-m", "uv"]
            subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(place)], check=True)
            install = [*uv, "pip", "install", "--quiet", "--python", str(place / "bin/python"), f"kserve=={KSERVE}"]
            subprocess.run(install, check=True)
            (place / "complete").touch()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [str(place / "bin/python"), str(HERE / "drivers.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    yield process
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=20)


@pytest.fixture(scope="session")
def model_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server with all models."""
    sources = {"digits": "digits://", "mixed": "python://conformance_models:mixed"}
    sources["brain"] = "python://conformance_models:brain"
    models = [word for name, source in sources.items() for word in ("--model", f"{name}={source}")]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
        options = (*models, "--slo-ms", "20000", "--cores", "1", "--max-batch", "64")
        server = ServerProcess(tmp_path_factory.mktemp("models"), *options, gamma_ms=1.0)
    yield server
    assert server.stop() == 0


@pytest.fixture(params=DRIVERS)
def client(request: pytest.FixtureRequest, model_server: ServerProcess) -> Client:
    remote = request.getfixturevalue("kserve_process") if request.param.startswith("kserve") else None
    return Client(request.param, model_server, remote)


class Client:
    """One stock client, connected to the server."""

    def __init__(self, name: str, server: ServerProcess, remote: subprocess.Popen[str] | None) -> None:
        self.name, self.server = name, server
        self.driver: Driver = (
            DRIVERS[name](server.data.removeprefix("http://"), server.grpc)
            if remote is None
            else Remote(remote, name, server)
        )

    def infer(self, ask: Ask) -> Reply:
        return self.driver.infer(ask)
