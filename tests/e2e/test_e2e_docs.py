"""The blocks of the README and the tutorial that need a cluster, on the real local one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from operator_kit import Kubectl
from tests.docs.code_blocks import RUN_IN_CLUSTER, Terminal, blocks_of, manifests

from sponge_cluster import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("operator_running")]


@pytest.fixture
def terminal(cluster: Cluster, kubectl: Kubectl, tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal.opened(tmp_path, KUBECONFIG=str(cluster.kubeconfig))
    tools = f"{cluster.kubectl.parent}:{cluster.helm.parent}"
    opened.environment["PATH"] = f"{tools}:{opened.environment['PATH']}"
    # The chart's own images are in no registry that this cluster knows: Helm asks the API server and installs nothing.
    opened.replaced["helm install"] = "helm install --dry-run=server"
    yield opened
    opened.close()
    kubectl("delete", "sps", "--all", "-n", "default", "--ignore-not-found")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", RUN_IN_CLUSTER)
def test_the_page_runs_on_a_cluster(page: str, terminal: Terminal) -> None:
    blocks = [block for block in blocks_of(page) if block.how == "cluster"]
    assert blocks
    for block in blocks:
        terminal.run(block)


def test_the_api_server_takes_every_manifest(kubectl: Kubectl) -> None:
    for block, document in manifests():
        document["metadata"]["namespace"] = "default"
        answer = kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", document=document)
        assert json.loads(answer)["metadata"]["name"] == document["metadata"]["name"], str(block)
