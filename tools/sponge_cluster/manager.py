"""`up`, `down`, `status`, `connect` and `change_node`, for both backends."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from sponge_cluster.cluster import Backend, BackendName, Cluster, NodeAction, Status
from sponge_cluster.errors import ClusterError
from sponge_cluster.kind import KindBackend
from sponge_cluster.layout import clusters_folder, folder
from sponge_cluster.locks import locked
from sponge_cluster.native import NativeBackend
from sponge_cluster.progress import Progress, SilentProgress
from sponge_cluster.state_file import read_state
from sponge_cluster.workers import Workers

__all__ = ["DEFAULT_NAME", "change_node", "choose", "connect", "down", "status", "up"]

DEFAULT_NAME = "sponge"

_PATIENCE_S = 30.0

_BACKENDS: Mapping[BackendName, type[Backend]] = {"native": NativeBackend, "kind": KindBackend}


def choose(requested: Literal["auto", "native", "kind"], *, docker: bool, kind: bool) -> tuple[BackendName, str]:
    """Chooses the backend; returns it and the reason.

    Args:
        requested: the option of the user.
        docker: a Docker engine answers.
        kind: the `kind` program is installed.

    Raises:
        ClusterError: the user requested kind, and it cannot work.
    """
    lacks = "no Docker engine answers" if not docker else "" if kind else "there is no `kind` program"
    if requested == "native":
        return "native", "as requested"
    if requested == "kind":
        if lacks:
            raise ClusterError(f"backend kind cannot work, {lacks}: repair that, or use --backend native")
        return "kind", "as requested"
    return ("native", lacks) if lacks else ("kind", "a Docker engine answers and kind is installed")


def _docker_answers() -> bool:
    try:
        done = subprocess.run(
            ["docker", "version", "-f", "{{.Server.Version}}"], capture_output=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def up(
    name: str = DEFAULT_NAME,
    backend: Literal["auto", "native", "kind"] = "auto",
    progress: Progress = SilentProgress(),
    workers: Workers | None = None,
) -> Cluster:
    """Returns the running cluster of that name, or starts one.

    Args:
        workers: its nodes; None: those that it has, or had before it broke, else one.

    Raises:
        ClusterError: the cluster cannot start, or runs on another backend or with other nodes than requested.
    """
    folder(name)  # refuses an invalid name first
    with _lock(name, progress):
        made_by = _made_by(name)
        if made_by is not None and _works(_BACKENDS[made_by](), name):
            if backend not in ("auto", made_by):
                raise ClusterError(f"cluster '{name}' runs on {made_by}; run `sponge cluster down` first")
            running = _BACKENDS[made_by]().connect(name)
            if workers not in (None, running.workers):
                raise ClusterError(f"cluster '{name}' runs with {running.workers}; run `sponge cluster down` first")
            progress.say(f"cluster '{name}' is running already ({made_by})")
            return running
        if workers is None and made_by is not None:
            workers = _BACKENDS[made_by]().connect(name).workers
        chosen, why = choose(backend, docker=_docker_answers(), kind=shutil.which("kind") is not None)
        if made_by not in (None, chosen):
            # Only the backend that made a broken cluster can remove it.
            _backend_of(name).down(name, progress)
        progress.say(f"starting cluster '{name}' on backend {chosen}: {why}")
        return _BACKENDS[chosen]().up(name, workers or Workers(), progress)


def _works(backend: Backend, name: str) -> bool:
    """Whether the cluster is Ready. Waits if all parts run, because a busy machine answers slowly."""
    until = time.monotonic() + _PATIENCE_S
    while not (found := backend.status(name)).ready:
        if found.state != "running" or time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def down(name: str = DEFAULT_NAME, progress: Progress = SilentProgress()) -> bool:
    """Stops the cluster and removes everything that it made; returns whether it existed.

    Raises:
        ClusterError: something could not be stopped or removed; repair that and call again.
    """
    existed = folder(name).exists()
    with _lock(name, progress):
        _backend_of(name).down(name, progress)
    return existed


def status(name: str = DEFAULT_NAME) -> Status:
    """Returns the status; changes nothing."""
    if _made_by(name) is None:
        return Status(name, "stopped", ready=False)
    return _backend_of(name).status(name)


def connect(name: str = DEFAULT_NAME) -> Cluster:
    """Returns the running cluster of that name.

    Raises:
        ClusterError: no such cluster runs.
    """
    return _backend_of(name).connect(name)


def change_node(node: str, action: NodeAction, name: str = DEFAULT_NAME, progress: Progress = SilentProgress()) -> None:
    """Lets something happen to a node of a running cluster.

    Args:
        node: its name.
        action: stop: it dies with all its processes, and is off the network. pause, resume: its kubelet hangs and goes
            on. cut, heal: it is off the network and back. start: whatever was done to it, it is well again.

    Raises:
        ClusterError: no such node runs, or its backend cannot do this.
    """
    with _lock(name, progress):
        _backend_of(name).change_node(name, node, action, progress)


def _made_by(name: str) -> BackendName | None:
    state = read_state(folder(name))
    return None if state is None else state["backend"]


def _backend_of(name: str) -> Backend:
    # Without a state file, only the native backend can have left something behind.
    return _BACKENDS[_made_by(name) or "native"]()


def _lock(name: str, progress: Progress) -> AbstractContextManager[None]:
    path: Path = clusters_folder() / f"{name}.lock"
    return locked(path, lambda: progress.say("waiting for another `sponge cluster` command on this cluster"))
