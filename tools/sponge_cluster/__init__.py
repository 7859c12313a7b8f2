"""The local Kubernetes: a kind cluster where Docker answers, else a native one made of plain processes.

from sponge_cluster import up
cluster = up()                      # a running one is reused
cluster.kubeconfig, cluster.kubectl, cluster.python_pod()
"""

from __future__ import annotations

from sponge_cluster.cluster import Cluster, Process, Status
from sponge_cluster.errors import ClusterError
from sponge_cluster.host_python import PythonPod, host_mounts, python_pod
from sponge_cluster.images import BUSYBOX_IMAGE, PYTHON_IMAGE
from sponge_cluster.manager import DEFAULT_NAME, connect, down, status, up
from sponge_cluster.progress import ConsoleProgress, Progress, SilentProgress

__all__ = [
    "BUSYBOX_IMAGE",
    "DEFAULT_NAME",
    "PYTHON_IMAGE",
    "Cluster",
    "ClusterError",
    "ConsoleProgress",
    "Process",
    "Progress",
    "PythonPod",
    "SilentProgress",
    "Status",
    "connect",
    "down",
    "host_mounts",
    "python_pod",
    "status",
    "up",
]
