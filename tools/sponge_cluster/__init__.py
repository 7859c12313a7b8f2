"""The local Kubernetes: a kind cluster if a Docker engine answers, else a native one made of plain processes.

from sponge_cluster import up
cluster = up()                      # reuses a running cluster
cluster.kubeconfig, cluster.kubectl, cluster.python_pod()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sponge_cluster.cluster import Cluster, NodeAction, NodeStatus, Process, Status
    from sponge_cluster.errors import ClusterError
    from sponge_cluster.host_python import PythonPod, host_mounts, python_pod
    from sponge_cluster.images import BUSYBOX_IMAGE, PYTHON_IMAGE
    from sponge_cluster.manager import DEFAULT_NAME, change_node, connect, down, status, up
    from sponge_cluster.progress import ConsoleProgress, Progress, SilentProgress
    from sponge_cluster.workers import Workers

__all__ = [
    "BUSYBOX_IMAGE",
    "DEFAULT_NAME",
    "PYTHON_IMAGE",
    "Cluster",
    "ClusterError",
    "ConsoleProgress",
    "NodeAction",
    "NodeStatus",
    "Process",
    "Progress",
    "PythonPod",
    "SilentProgress",
    "Status",
    "Workers",
    "change_node",
    "connect",
    "down",
    "host_mounts",
    "python_pod",
    "status",
    "up",
]

_MODULES = ("cluster", "errors", "host_python", "images", "manager", "progress", "workers")


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: `sponge --help` imports this package, and must be quick."""
    if name in __all__:
        for module in _MODULES:
            found = getattr(importlib.import_module(f"{__name__}.{module}"), name, None)
            if found is not None:
                return globals().setdefault(name, found)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
