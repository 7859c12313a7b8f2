"""The real cluster that end-to-end tests share: the one that runs already, else one of their own for the session.

SPONGE_KEEP_CLUSTER=1 leaves it running at the end, for a quick next run.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from operator_kit import Kubectl, Service, fresh_namespace, shown

import sponge_cluster
from sponge_cluster import DEFAULT_NAME, Cluster, ConsoleProgress
from sponge_cluster.chart import install_operator


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the state of the cluster to the report of a failed test: the next run may not fail again."""
    report = yield
    kubectl = getattr(item, "funcargs", {}).get("kubectl")
    if report.failed and kubectl is not None:
        report.sections.append(("cluster", shown(kubectl)))
    return report


@pytest.fixture(scope="session")
def wanted_cluster() -> dict[str, Any]:
    """The arguments of `sponge_cluster.up`: which cluster the tests of this folder share."""
    return {"name": DEFAULT_NAME}


@pytest.fixture(scope="session")
def cluster(wanted_cluster: dict[str, Any]) -> Iterator[Cluster]:
    """A Ready cluster."""
    name = wanted_cluster["name"]
    ran_before = sponge_cluster.status(name).state != "stopped"
    yield sponge_cluster.up(**wanted_cluster, progress=ConsoleProgress())
    if not ran_before and not os.environ.get("SPONGE_KEEP_CLUSTER"):
        sponge_cluster.down(name, progress=ConsoleProgress())


@pytest.fixture(scope="session")
def kubectl(cluster: Cluster) -> Kubectl:
    """Runs kubectl against the cluster and returns what it printed; `document` is applied from stdin."""

    def run(*args: str, document: dict[str, Any] | None = None) -> str:
        text = None if document is None else json.dumps(document)
        done = subprocess.run(
            [str(cluster.kubectl), "--kubeconfig", str(cluster.kubeconfig), *args],
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(args)}: {done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def namespace(kubectl: Kubectl, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, ready for pods; at the end its pods are gone, because others need their cores."""
    name = "e2e-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:50].strip("-")
    with fresh_namespace(kubectl, name):
        yield name
    kubectl("delete", "pods", "--all", "-n", name, "--grace-period=1", "--ignore-not-found", "--timeout=60s")


@pytest.fixture(scope="session")
def operator_running(cluster: Cluster) -> None:
    """Installed by Helm, once for all tests, from this source tree, in a pod of its own with its own ServiceAccount."""
    install_operator(cluster)


@pytest.fixture(scope="session")
def shared_namespace(kubectl: Kubectl) -> Iterator[str]:
    """A namespace for the services that several tests share."""
    with fresh_namespace(kubectl, "e2e-shared") as name:
        yield name


@pytest.fixture(scope="session")
def digits(operator_running: None, kubectl: Kubectl, shared_namespace: str) -> Service:
    """A small service that is ready; each test leaves it at rest at 250m, in mode Auto."""
    service = Service(kubectl, shared_namespace, "digits")
    service.apply(
        model={"name": "digits", "source": "digits://"},
        slo={"latency": "300ms"},
        cpu={"min": "250m", "max": "1500m", "step": "125m"},
    )
    service.wait_ready()
    return service
