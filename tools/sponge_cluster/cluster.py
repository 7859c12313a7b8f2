"""A running cluster as its users see it, the report on one, and the interface that both kinds of cluster fulfil."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from sponge_cluster.host_python import PythonPod, python_pod
from sponge_cluster.progress import Progress

__all__ = ["Backend", "BackendName", "Cluster", "Process", "Status"]

BackendName = Literal["native", "kind"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """How to reach a running cluster, and how to run this machine's Python in it."""

    name: str
    backend: BackendName
    kubeconfig: Path
    kubectl: Path
    helm: Path
    node: str
    host_mounts: tuple[str, ...]
    """Folders of this machine that pods may mount; on the node each is at `host_root` + its path."""
    host_root: str = ""

    def python_pod(self) -> PythonPod:
        """The pod parts that run `sponge` from this very environment."""
        return python_pod(self.host_mounts, self.host_root)


@dataclass(frozen=True, slots=True)
class Process:
    """One recorded daemon."""

    name: str
    pid: int
    running: bool


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of a cluster. `state`: running, degraded (some daemons are dead) or stopped."""

    name: str
    state: Literal["running", "degraded", "stopped"]
    ready: bool
    backend: BackendName | None = None
    kubeconfig: str | None = None
    server: str | None = None
    node: str | None = None
    versions: dict[str, str] | None = None
    processes: tuple[Process, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


class Backend(Protocol):
    """One way to have a cluster. The caller holds the cluster's lock during `up` and `down`."""

    name: BackendName

    def up(self, name: str, progress: Progress) -> Cluster:
        """Starts the cluster from nothing; on failure or interrupt nothing is left.

        Raises:
            ClusterError: it cannot be started; the message says what to do.
        """

    def connect(self, name: str) -> Cluster:
        """The cluster that runs."""

    def down(self, name: str, progress: Progress) -> None:
        """Stops it, in whatever state it is, and takes away all that it made."""

    def status(self, name: str) -> Status:
        """Looks at it, changing nothing."""
