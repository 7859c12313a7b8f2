"""Tells `sponge profile --in-cluster` how to use the local cluster; registered in the group `sponge.clusters`."""

from __future__ import annotations

from pathlib import Path

from sponge_cluster.chart import local_values
from sponge_cluster.manager import connect, status
from sponge_profiler.cluster_access import ClusterAccess

__all__ = ["find"]


def find(kubeconfig: Path) -> ClusterAccess | None:
    """The local cluster, if the kubeconfig is its own; its pods run this machine's Python environment."""
    local = status()
    if local.kubeconfig is None or kubeconfig.resolve() != Path(local.kubeconfig).resolve():
        return None
    cluster = connect()
    return ClusterAccess(cluster.kubectl, local_values(cluster.python_pod())["server"]["template"])
