"""A Docker engine to build with: the one that answers, else one of our own for the length of a command.

An engine of our own runs only for root on Linux, as in a container without an init system. It keeps its images in the
user's cache, has its own socket, and leaves the machine's packet filter alone: builds use the machine's network, and
kind's network needs no masquerading.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sponge_cluster.errors import ClusterError
from sponge_cluster.locks import locked
from sponge_cluster.processes import check, tail
from sponge_cluster.progress import Progress
from sponge_system.cache_folder import cache_root

__all__ = ["RUNC", "Docker", "engine"]

_START_S = 60.0
_PULL_S = 1800.0
_CAP_SYS_RESOURCE = 24  # its bit, as in capabilities(7)

RUNC = """#!/bin/bash
# runc without the capability CAP_SYS_RESOURCE, which this machine cannot give.
before=
for word in "$@"; do
  case "$before" in
    --bundle|-b) file="$word/config.json" ;;
    --process|-p) file="$word" ;;
    *) file= ;;
  esac
  if [ -n "$file" ] && [ -f "$file" ]; then
    sed -i 's/"CAP_SYS_RESOURCE",//g; s/,"CAP_SYS_RESOURCE"//g; s/"CAP_SYS_RESOURCE"//g' "$file"
  fi
  before="$word"
done
exec runc "$@"
"""


@dataclass(frozen=True)
class Docker:
    """An engine that answers.

    Attributes:
        environment: of every program that talks to it, such as kind.
    """

    environment: Mapping[str, str]

    def ask(self, *words: str, timeout_s: float = 60.0) -> str:
        """What `docker WORDS` prints. Raises ClusterError if it fails."""
        return check(["docker", *words], env=self.environment, timeout_s=timeout_s)

    def says(self, *words: str, timeout_s: float = 300.0) -> bool:
        """Whether `docker WORDS` succeeds."""
        try:
            self.ask(*words, timeout_s=timeout_s)
        except ClusterError:
            return False
        return True

    def has(self, image: str) -> bool:
        """Whether the image is here, after an attempt to pull it."""
        return self.says("image", "inspect", image) or self.says("pull", "--quiet", image, timeout_s=_PULL_S)

    def show(self, *words: str) -> None:
        """Runs `docker WORDS`, with its output on stderr. Raises ClusterError if it fails."""
        done = subprocess.run(["docker", *words], env=dict(self.environment), stdout=sys.stderr, check=False)
        if done.returncode != 0:
            raise ClusterError(f"`docker {' '.join(words[:3])}` failed with exit code {done.returncode}; see above")

    def build(self, tag: str, *words: str) -> None:
        """Runs `docker build` for the image `tag`, and removes the image that had this tag before."""
        before = self._id(tag)
        self.show("build", "--tag", tag, *words)
        if before and before != self._id(tag):
            # Several gigabytes that nothing names any more; the engine refuses if a container still uses them.
            self.says("image", "rm", before)

    def _id(self, tag: str) -> str:
        try:
            return self.ask("image", "inspect", "--format", "{{.Id}}", tag).strip()
        except ClusterError:
            return ""


@contextmanager
def engine(progress: Progress) -> Iterator[Docker]:
    """A Docker engine that answers, until the end of the context.

    Raises:
        ClusterError: none answers, and this machine cannot start one.
    """
    users = Docker(dict(os.environ))
    try:
        users.ask("info")
    except ClusterError as error:
        silent = error
    else:
        yield users
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ClusterError(
            f"no Docker engine answers: {silent}. Install Docker and start it, and give this user access to its socket"
        )
    if not shutil.which("dockerd"):
        with progress.busy("installing docker.io"):
            check(["apt-get", "update"], timeout_s=300.0)
            check(["apt-get", "install", "-y", "--no-install-recommends", "docker.io"], timeout_s=600.0)
        if users.says("info"):
            yield users
            return
    folder = cache_root() / "docker"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", lambda: progress.say("waiting for another command that runs this engine")):
        process = _start(folder)
        own = Docker({**os.environ, "DOCKER_HOST": f"unix://{folder}/docker.sock"})
        try:
            until = time.monotonic() + _START_S
            while not own.says("info"):
                if process.poll() is not None or time.monotonic() > until:
                    raise ClusterError(f"dockerd does not start: {tail(folder / 'dockerd.log')}")
                time.sleep(0.2)
            progress.say("started a Docker engine of our own, as none answered")
            yield own
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_START_S)


def _start(folder: Path) -> subprocess.Popen[bytes]:
    for stale in ("docker.pid", "docker.sock"):
        (folder / stale).unlink(missing_ok=True)
    settings: dict[str, object] = {
        "data-root": str(folder / "data"),
        "exec-root": str(folder / "exec"),
        "pidfile": str(folder / "docker.pid"),
        "hosts": [f"unix://{folder}/docker.sock"],
        "iptables": False,
        "ip6tables": False,
        "bip": "172.29.255.1/24",
    }
    if not _may_raise_limits():
        wrapper = folder / "runc-without-sys-resource"
        wrapper.write_text(RUNC)
        wrapper.chmod(0o755)
        settings |= {"runtimes": {wrapper.name: {"path": str(wrapper)}}, "default-runtime": wrapper.name}
    (folder / "daemon.json").write_text(json.dumps(settings))
    with (folder / "dockerd.log").open("wb") as log:
        return subprocess.Popen(
            ["dockerd", "--config-file", str(folder / "daemon.json")], stdout=log, stderr=log, start_new_session=True
        )


def _may_raise_limits() -> bool:
    """Whether CAP_SYS_RESOURCE is in the bounding set; without it, a privileged container cannot start."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return True
