"""How to reach the cluster that a profile is measured in: its kubectl, and what a pod needs there.

Any cluster works with the kubectl in PATH. A distribution that runs clusters of its own registers a `ClusterFinder`
under the entry-point group `sponge.clusters`, and answers for those.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from sponge_core.errors import SpongeError

__all__ = ["CLUSTERS_GROUP", "ClusterAccess", "ClusterFinder", "find_access"]

CLUSTERS_GROUP = "sponge.clusters"


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """How to work with one cluster.

    Attributes:
        kubectl: the program to attach with.
        template: partial pod template that a model server's pod needs in this cluster, e.g. volumes and an image.
    """

    kubectl: Path
    template: Mapping[str, Any] = field(default_factory=dict)


ClusterFinder = Callable[[Path], ClusterAccess | None]
"""Gets the kubeconfig in use; returns None if it belongs to another cluster."""


def find_access(kubeconfig: Path) -> ClusterAccess:
    """How to work with the cluster of this kubeconfig.

    Raises:
        SpongeError: the cluster is not one of an installed tool, and PATH has no kubectl.
    """
    for entry in entry_points(group=CLUSTERS_GROUP):
        finder: ClusterFinder = entry.load()
        if (access := finder(kubeconfig)) is not None:
            return access
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise SpongeError("--in-cluster needs kubectl, which is not in PATH: install it")
    return ClusterAccess(Path(kubectl))
