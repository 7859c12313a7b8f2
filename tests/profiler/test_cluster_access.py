"""Which kubectl and which pod template `sponge profile --in-cluster` uses."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from sponge_core.errors import SpongeError
from sponge_profiler import cluster_access
from sponge_profiler.cluster_access import ClusterAccess, find_access

OWN = Path("/run/own/kubeconfig")


def own(kubeconfig: Path) -> ClusterAccess | None:
    return ClusterAccess(Path("/own/kubectl"), {"spec": {}}) if kubeconfig == OWN else None


@pytest.fixture(autouse=True)
def installed_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "finder_of_a_test", sys.modules[__name__])
    found = EntryPoints([EntryPoint("own", "finder_of_a_test:own", cluster_access.CLUSTERS_GROUP)])
    monkeypatch.setattr(cluster_access, "entry_points", lambda group: found.select(group=group))


def test_a_tools_own_cluster_brings_its_kubectl_and_its_template() -> None:
    assert find_access(OWN) == ClusterAccess(Path("/own/kubectl"), {"spec": {}})


def test_any_other_cluster_takes_kubectl_from_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text("#!/bin/sh\n")
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_access(Path("/other")) == ClusterAccess(kubectl)
    kubectl.unlink()
    with pytest.raises(SpongeError, match="install it"):
        find_access(Path("/other"))
