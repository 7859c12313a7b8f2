"""A running cluster, the status of a cluster, and the interface that both backends implement."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from sponge_cluster.host_python import PythonPod, python_pod
from sponge_cluster.progress import Progress
from sponge_cluster.workers import Workers

__all__ = ["Backend", "BackendName", "Cluster", "NodeAction", "NodeStatus", "Process", "Status"]

BackendName = Literal["native", "kind"]

NodeAction = Literal["stop", "start", "pause", "resume", "cut", "heal"]
"""What can happen to a node: it dies or starts again, its kubelet hangs or goes on, its network is lost or back."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """How to reach a running cluster, and how to run this machine's Python in it."""

    name: str
    backend: BackendName
    kubeconfig: Path
    kubectl: Path
    helm: Path
    nodes: tuple[str, ...]
    """The names of the nodes that run pods."""
    workers: Workers
    host_mounts: tuple[str, ...]
    """Folders of this machine that pods may mount; on the node each one is at `host_root` + its path."""
    host_root: str = ""

    @property
    def node(self) -> str:
        """The first node, or the only one."""
        return self.nodes[0]

    def python_pod(self) -> PythonPod:
        """The pod parts that run `sponge` from this very environment."""
        return python_pod(self.host_mounts, self.host_root)


@dataclass(frozen=True, slots=True)
class Process:
    """One daemon of the state file."""

    name: str
    pid: int
    running: bool


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node that runs pods."""

    name: str
    zone: str
    address: str
    ready: bool


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a cluster. `state`: running, degraded (some daemons are dead) or stopped."""

    name: str
    state: Literal["running", "degraded", "stopped"]
    ready: bool
    backend: BackendName | None = None
    kubeconfig: str | None = None
    server: str | None = None
    node: str | None = None
    nodes: tuple[NodeStatus, ...] = ()
    versions: dict[str, str] | None = None
    processes: tuple[Process, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return asdict(self)


class Backend(Protocol):
    """One way to run a cluster. The caller holds the cluster's lock during `up` and `down`."""

    name: BackendName

    def up(self, name: str, workers: Workers, progress: Progress) -> Cluster:
        """Starts a new cluster with these nodes. A failure or an interrupt leaves nothing behind.

        Raises:
            ClusterError: it cannot be started; the message says what to do.
        """

    def connect(self, name: str) -> Cluster:
        """Returns the running cluster."""

    def down(self, name: str, progress: Progress) -> None:
        """Stops the cluster in any state, and removes everything that it made."""

    def status(self, name: str) -> Status:
        """Returns the status; changes nothing."""

    def change_node(self, name: str, node: str, action: NodeAction, progress: Progress) -> None:
        """Lets something happen to a node.

        Raises:
            ClusterError: there is no such node, or this cannot happen to it.
        """
