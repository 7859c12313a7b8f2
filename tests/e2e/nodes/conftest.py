"""The cluster of these tests: two nodes of one core each, on a machine of its own beside the one of the other tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

import sponge_cluster
from sponge_cluster import Cluster, Workers
from sponge_cluster.chart import install_operator


@pytest.fixture(scope="session")
def wanted_cluster() -> dict[str, Any]:
    if not os.environ.get("OWN_MACHINE"):  # set by tests/shared/own_machine.sh
        pytest.skip("needs a machine of its own, beside the other local cluster: run `make e2e-nodes`")
    return {"name": "e2e-nodes", "backend": "native", "workers": Workers(2, 1.0)}


@pytest.fixture(scope="session")
def operator_running(cluster: Cluster) -> None:
    """On the first node, so that it outlives the second one."""
    install_operator(cluster, {"nodeSelector": {"kubernetes.io/hostname": cluster.nodes[0]}})


@pytest.fixture
def two_nodes(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """The names of both nodes; whatever a test does to them, they are well again after it."""
    first, second = cluster.nodes
    yield first, second
    for node in cluster.nodes:
        sponge_cluster.change_node(node, "start", cluster.name)
