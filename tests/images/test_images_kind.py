"""The kind test's own parts: its configuration, what counts as left over, and the programs that it needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sponge_cluster.chart import CHART
from sponge_cluster.errors import ClusterError
from sponge_cluster.progress import SilentProgress
from sponge_images import programs
from sponge_images.kind_test import CRD, SERVICE, STOCK, cluster_config, listed


def test_the_stock_node_image_needs_no_setting() -> None:
    config = cluster_config((), STOCK, stock=True)
    labels = {"topology.kubernetes.io/zone": "zone-a"}
    assert config["nodes"] == [{"role": "control-plane", "labels": labels, "extraMounts": [], "image": STOCK}]
    assert set(config) == {"kind", "apiVersion", "nodes"}


def test_a_node_image_of_our_own_runs_where_that_was_made() -> None:
    config = cluster_config(("/usr", "/opt/python"), "node:1", stock=False)
    (node,) = config["nodes"]
    assert node["image"] == "node:1"
    assert [mount["containerPath"] for mount in node["extraMounts"]] == ["/host/usr", "/host/opt/python"]
    (patch,) = config["kubeadmConfigPatches"]
    assert yaml.safe_load(patch)["cgroupDriver"] == "cgroupfs"


def test_what_counts_as_left_over() -> None:
    table = """
ClusterRole   <none>          sponge
Deployment    default         digits
Lease         sponge-system   sponge-operator
Event         default         digits.17a
Pod           kube-system     coredns-1
Lease         kube-node-lease node
    """
    assert listed(table.strip()) == {
        "ClusterRole sponge",
        "Deployment default/digits",
        "Lease sponge-system/sponge-operator",
    }


def test_the_example_and_the_resource_are_those_that_users_get() -> None:
    assert yaml.safe_load(SERVICE.read_text())["metadata"]["name"] == "digits"
    (crd,) = (CHART / "crds").glob("*.yaml")
    assert yaml.safe_load(crd.read_text())["metadata"]["name"] == CRD


def test_without_kind_and_without_go_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ClusterError, match=f"sigs.k8s.io/kind@{programs.KIND}: install kind, or Go"):
        programs.kind(SilentProgress())
    with pytest.raises(ClusterError, match="install Go"):
        programs.coredns("v1.14.2", SilentProgress())


def test_the_users_own_kind_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert programs.kind(SilentProgress()) == Path("/usr/bin/kind")
