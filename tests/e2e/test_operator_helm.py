"""The chart under the real Helm: lints, renders for every way to run it, and refuses values that nobody reads."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml
from cloudcoil.models.prometheus_operator import v1 as monitoring
from operator_kit import Kubectl

from sponge_cluster import Cluster
from sponge_cluster.chart import CHART

pytestmark = pytest.mark.e2e

SECURED = ("server.tls.secretName=cert", "server.apiKeys.secretName=clients")
ALWAYS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "Deployment", "Service", "Pod", "Job")


def helm(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(cluster.helm), *arguments], capture_output=True, text=True, timeout=120, check=False)


def rendered(cluster: Cluster, *values: str, release: str = "sponge") -> list[dict[str, Any]]:
    flags = [flag for value in values for flag in ("--set", value)]
    done = helm(cluster, "template", release, str(CHART), "-n", "sponge-system", "--kube-version", "1.36.0", *flags)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def documents_of_everything(cluster: Cluster, *values: str) -> list[dict[str, Any]]:
    """All kinds at once that the API server knows; those of the Prometheus operator are not installed."""
    everything = ("replicas=2", "networkPolicy.enabled=true", "server.template.spec.priorityClassName=high")
    documents = rendered(cluster, *everything, *values, release="another")
    for document in documents:
        document["metadata"]["namespace"] = "default"
        if document["kind"] == "Pod":  # the ServiceAccount has to exist already
            document["spec"]["serviceAccountName"] = "default"
    return documents


@pytest.mark.parametrize("values", [(), ("watchNamespaces={default}",)], ids=["all-namespaces", "one-namespace"])
def test_the_api_server_takes_every_object(cluster: Cluster, kubectl: Kubectl, values: tuple[str, ...]) -> None:
    """With no unknown or misspelt field in it."""
    documents = documents_of_everything(cluster, "priorityClassName=system-cluster-critical", *values)
    kubectl(
        *("create", "--dry-run=server", "--validate=strict", "-f", "-"),
        document={"apiVersion": "v1", "kind": "List", "items": documents},
    )


@pytest.mark.parametrize("monitor", ["podMonitor", "serviceMonitor"])
def test_the_prometheus_operator_knows_every_field(cluster: Cluster, monitor: str) -> None:
    """Its types, made from its CRDs, read every object and lose nothing of it."""
    documents = [
        document
        for document in rendered(
            cluster, f"metrics.{monitor}.enabled=true", "metrics.prometheusRule.enabled=true", *SECURED
        )
        if document["apiVersion"] == "monitoring.coreos.com/v1"
    ]
    assert len(documents) == 4
    for document in documents:
        read = getattr(monitoring, document["kind"]).model_validate(document)
        assert read.model_dump(by_alias=True, exclude_unset=True, mode="json") == document


@pytest.mark.torch
def test_helm_test_passes(cluster: Cluster, operator_running: None) -> None:
    done = helm(cluster, "--kubeconfig", str(cluster.kubeconfig), "test", "sponge", "-n", "sponge-system")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"TEST SUITE: +sponge-operator-test\n(.*\n){2}Phase: +Succeeded", done.stdout), done.stdout


def test_lint(cluster: Cluster) -> None:
    done = helm(cluster, "lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ([], {*ALWAYS, "ConfigMap", "ClusterRoleBinding"}),
        (["dashboard.enabled=false"], {*ALWAYS, "ClusterRoleBinding"}),
        # A namespaced install has no right outside of its namespaces.
        (
            ["watchNamespaces={a,b}", "jointPlanning=false", "userRoles.enabled=false", "front.enabled=false"],
            {*ALWAYS, "ConfigMap"} - {"ClusterRole"},
        ),
        (
            ["replicas=2", "networkPolicy.enabled=true", "metrics.prometheusRule.enabled=true"],
            {*ALWAYS, "ConfigMap", "ClusterRoleBinding", "PodDisruptionBudget", "NetworkPolicy", "PrometheusRule"},
        ),
        (
            ["watchNamespaces={a,b}", "metrics.podMonitor.enabled=true"],
            {*ALWAYS, "ConfigMap", "ClusterRoleBinding", "PodMonitor"},
        ),
        (
            ["metrics.serviceMonitor.enabled=true", "uninstall.retire=false"],
            {*ALWAYS, "ConfigMap", "ClusterRoleBinding", "ServiceMonitor"} - {"Job"},
        ),
    ],
)
def test_what_is_rendered(cluster: Cluster, values: list[str], kinds: set[str]) -> None:
    assert {document["kind"] for document in rendered(cluster, *values)} == kinds


def test_secrets_of_services_that_name_none(cluster: Cluster) -> None:
    values = (*SECURED, "metrics.podMonitor.enabled=true")
    documents = {
        f"{document['kind']} {document['metadata']['name']}": document for document in rendered(cluster, *values)
    }
    (container,) = documents["Deployment sponge-operator"]["spec"]["template"]["spec"]["containers"]
    assert {"--server-tls-secret=cert", "--server-api-keys-secret=clients"} <= set(container["args"])
    (endpoint,) = documents["PodMonitor sponge-servers"]["spec"]["podMetricsEndpoints"]
    assert endpoint["tlsConfig"] == {"insecureSkipVerify": True}
    assert endpoint["relabelings"][0]["targetLabel"] == "__scheme__"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("logLevel=loud", "logLevel"),
        ("metrics.port=80", "metrics"),
        ("servers.image=x", "servers"),
        ("server.templateSecurity=none", "templateSecurity"),
        ("metrics.podMonitor.enabled=true,metrics.serviceMonitor.enabled=true", "everything twice"),
    ],
)
def test_a_value_that_cannot_be_is_refused(cluster: Cluster, value: str, says: str) -> None:
    done = helm(cluster, "template", "sponge", str(CHART), "--kube-version", "1.36.0", "--set", value)
    assert done.returncode != 0
    assert says in done.stderr
