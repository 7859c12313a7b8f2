"""Finds the cgroup with the CPU quota of a container of the local cluster, from this machine.

For tests and experiments that check the quota independently of the kubelet. `sponge_system.cgroup` reads the quota.
"""

from __future__ import annotations

import os
from pathlib import Path

from sponge_cluster.errors import ClusterError

__all__ = ["container_cgroup"]

_QUOTA_FILES = ("cpu.cfs_quota_us", "cpu.max")


def container_cgroup(pod_uid: str, container_id: str, root: Path = Path("/sys/fs/cgroup")) -> Path:
    """The folder of the container's CPU controller.

    Args:
        pod_uid: `metadata.uid` of the pod.
        container_id: `containerID` of its status, with or without the `containerd://` in front.

    Raises:
        ClusterError: no such container runs on this machine.
    """
    wanted = container_id.rpartition("/")[2]
    # The systemd driver writes the uid with underscores and adds affixes to both names.
    uids = (pod_uid, pod_uid.replace("-", "_"))
    for folder, _, files in os.walk(root):
        path = Path(folder)
        named = wanted in path.name and any(uid in path.parent.name for uid in uids)
        if named and any(name in files for name in _QUOTA_FILES):
            return path
    raise ClusterError(f"no container {wanted[:12]} of pod {pod_uid} has a CPU quota below {root}")
