"""Prometheus and promtool for tests: those on PATH, else Debian's package, unpacked into the user's cache."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import yaml

from sponge_cluster.locks import locked
from sponge_system.cache_folder import cache_root

__all__ = ["Prometheus", "program"]

START_S = 60.0


@cache
def program(name: str) -> str:
    """Path of `prometheus` or `promtool`; skips the test where neither PATH nor apt-get has it."""
    if found := shutil.which(name):
        return found
    # Not installed, because Debian's package would start a service.
    folder = cache_root() / "debian-prometheus"
    path = folder / "usr" / "bin" / name
    with locked(cache_root() / "debian-prometheus.lock", lambda: None):
        if not path.exists() and not _unpacked(folder):
            pytest.skip(f"there is no {name}: install the Debian package prometheus")
    return str(path)


def _unpacked(folder: Path) -> bool:
    folder.mkdir(parents=True, exist_ok=True)

    def done(*command: str) -> bool:
        try:
            return subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=240).returncode == 0
        except OSError:
            return False

    download = ("apt-get", "download", "prometheus")
    if not done(*download) and not (done("apt-get", "update") and done(*download)):
        return False
    return all(done("dpkg-deb", "--extract", str(package), str(folder)) for package in folder.glob("prometheus_*.deb"))


class Prometheus:
    """A real Prometheus with this configuration, while in its context; it answers on loopback."""

    def __init__(self, folder: Path, configuration: dict[str, Any]) -> None:
        self._folder = folder
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        self._log = (self._folder / "prometheus.log").open("w")
        self._process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={self._folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self._log,
            stderr=self._log,
        )
        until = time.monotonic() + START_S
        while not self._is_ready():
            assert time.monotonic() < until, (self._folder / "prometheus.log").read_text()
            assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
        self._log.close()

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series that the expression has now."""
        found: list[dict[str, Any]] = self._get("query", query=expr)["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str, **arguments: str) -> Any:
        query = urllib.parse.urlencode(arguments)
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{query}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{arguments}: {error.read().decode()}") from None

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
