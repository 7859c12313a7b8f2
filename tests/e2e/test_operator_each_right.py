"""Each right that the chart grants is needed: without it, the real API server refuses a call of the operator.

The calls are those of the operator's own client. Which of them it makes, and when, is tested with doubles.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from operator_kit import Kubectl, eventually

from sponge_cluster import Cluster
from sponge_cluster.chart import CHART
from sponge_core.errors import SpongeError
from sponge_operator.clients.kube import ApiError, Kube, collection_path

pytestmark = pytest.mark.e2e

HERE = "e2e-each-right"
"""The namespace, and the release whose roles these are."""

OWN = f"{HERE}-sponge-operator"
"""Its Deployment, and its Lease."""

RBAC, POLICY = "rbac.authorization.k8s.io", "policy"
SERVING, AUTOSCALING, LEASES = "serving.sponge.dev", "autoscaling", "coordination.k8s.io"

Right = tuple[str, str, str, str]
"""Kind of the role ("Retire": that of the Job before an uninstall), API group, resource, verb."""

Call = Callable[[Kube], Awaitable[object]]

BODIES: dict[str, dict[str, Any]] = {
    "Secret": {"apiVersion": "v1"},
    "ConfigMap": {"apiVersion": "v1"},
    "Service": {"apiVersion": "v1", "spec": {"ports": [{"port": 80}]}},
    "Event": {"apiVersion": "v1", "involvedObject": {"namespace": HERE}},
    "ServiceAccount": {"apiVersion": "v1"},
    "PodDisruptionBudget": {
        "apiVersion": "policy/v1",
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "x"}}},
    },
    "RoleBinding": {
        "apiVersion": f"{RBAC}/v1",
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": f"{HERE}-sponge-front"},
        "subjects": [{"kind": "ServiceAccount", "name": "kept", "namespace": HERE}],
    },
    "Lease": {"apiVersion": "coordination.k8s.io/v1"},
    "Deployment": {
        "apiVersion": "apps/v1",
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "x"}},
            "template": {
                "metadata": {"labels": {"app": "x"}},
                "spec": {"containers": [{"name": "server", "image": "x"}]},
            },
        },
    },
}


def body(kind: str, name: str) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "namespace": HERE}, **BODIES[kind]}


def get(kind: str) -> Call:
    return lambda kube: kube.get(kind, HERE, "sponge-operator")


def listed(kind: str) -> Call:
    return lambda kube: kube.list(kind, HERE)


def applied(kind: str, name: str) -> Call:
    return lambda kube: kube.apply(body(kind, name))


def made(kind: str) -> Call:
    return lambda kube: kube.apply(body(kind, f"new-{secrets.token_hex(4)}"))


def deleted(kind: str) -> Call:
    return lambda kube: kube.delete(kind, HERE, "none")


def watched(kind: str) -> Call:
    async def call(kube: Kube) -> None:
        server, session = await kube.open_session(aiohttp.TraceConfig())
        async with session:
            url, query = server + collection_path(kind, HERE), {"watch": "true", "timeoutSeconds": "1"}
            async with session.get(url, params=query) as answer:
                if answer.status >= 400:
                    raise ApiError(answer.status, {})

    return call


def child(kind: str, group: str, resource: str) -> dict[Right, Call]:
    return {
        ("Role", group, resource, "get"): get(kind),
        ("Role", group, resource, "create"): made(kind),
        ("Role", group, resource, "patch"): applied(kind, "kept"),
    }


def seen(kind: str, group: str, resource: str) -> dict[Right, Call]:
    return {("Role", group, resource, "list"): listed(kind), ("Role", group, resource, "watch"): watched(kind)}


CALLS: dict[Right, Call] = {
    **child("Secret", "", "secrets"),
    **child("ConfigMap", "", "configmaps"),
    **child("Service", "", "services"),
    **child("Deployment", "apps", "deployments"),
    **child("ServiceAccount", "", "serviceaccounts"),
    **child("PodDisruptionBudget", POLICY, "poddisruptionbudgets"),
    **child("RoleBinding", RBAC, "rolebindings"),
    ("Role", RBAC, "clusterroles", "bind"): made("RoleBinding"),
    ("Role", "apps", "deployments", "delete"): deleted("Deployment"),
    ("Role", "", "services", "delete"): deleted("Service"),
    ("Role", "", "serviceaccounts", "delete"): deleted("ServiceAccount"),
    ("Role", POLICY, "poddisruptionbudgets", "delete"): deleted("PodDisruptionBudget"),
    ("Role", RBAC, "rolebindings", "delete"): deleted("RoleBinding"),
    **seen("ConfigMap", "", "configmaps"),
    **seen("Service", "", "services"),
    **seen("Deployment", "apps", "deployments"),
    **seen("ServiceAccount", "", "serviceaccounts"),
    **seen("PodDisruptionBudget", POLICY, "poddisruptionbudgets"),
    **seen("RoleBinding", RBAC, "rolebindings"),
    **seen("ReplicaSet", "apps", "replicasets"),
    **seen("Pod", "", "pods"),
    **seen("HorizontalPodAutoscaler", AUTOSCALING, "horizontalpodautoscalers"),
    **seen("VerticalPodAutoscaler", "autoscaling.k8s.io", "verticalpodautoscalers"),
    **seen("SpongeService", SERVING, "spongeservices"),
    ("Role", SERVING, "spongeservices", "get"): get("SpongeService"),
    ("Role", SERVING, "spongeservices", "patch"): lambda kube: kube.merge("SpongeService", HERE, "none", {}),
    ("Role", SERVING, "spongeservices/status", "patch"): lambda kube: kube.write_status(HERE, "none", {}),
    ("Role", "", "pods", "get"): get("Pod"),
    ("Role", "", "pods", "patch"): lambda kube: kube.merge("Pod", HERE, "none", {}),
    ("Role", "", "pods/resize", "patch"): lambda kube: kube.resize(
        {"metadata": {"name": "none", "namespace": HERE, "uid": "none"}}, "server", 250
    ),
    ("Role", "", "events", "create"): lambda kube: kube.create(body("Event", "new")),
    ("Role", LEASES, "leases", "create"): lambda kube: kube.create(body("Lease", "new")),
    ("Role", LEASES, "leases", "get"): lambda kube: kube.get("Lease", HERE, OWN),
    ("Role", LEASES, "leases", "patch"): lambda kube: kube.merge("Lease", HERE, OWN, {}),
    ("Retire", "apps", "deployments", "get"): lambda kube: kube.get("Deployment", HERE, OWN),
    ("Retire", "apps", "deployments", "patch"): lambda kube: kube.merge("Deployment", HERE, OWN, {}),
    ("Retire", "", "pods", "list"): listed("Pod"),
    ("Retire", LEASES, "leases", "delete"): lambda kube: kube.delete("Lease", HERE, OWN),
    ("ClusterRole", "", "nodes", "get"): lambda kube: kube.get("Node", "", "none"),
    ("ClusterRole", "", "pods", "list"): lambda kube: kube.pods_on("none"),
}

NOT_ASKED_HERE: set[Right] = {("Role", SERVING, "spongeservices/finalizers", "update")}
"""Only where the admission plugin OwnerReferencesPermissionEnforcement is on, as on OpenShift."""


@dataclass
class Rights:
    """The roles of the chart in a namespace of their own, for a ServiceAccount that nothing else uses."""

    kubectl: Kubectl
    kubeconfig: Path
    roles: list[dict[str, Any]] = field(default_factory=list)

    def granted(self) -> set[Right]:
        return {right for role in self.roles for rule in role["rules"] for right in rights_of(kind_of(role), rule)}

    def grant(self, kind: str, *, without: Right | None = None) -> None:
        """Grants what roles of this kind hold, and nothing that others do."""
        for role in self.roles:
            each = [part for rule in role["rules"] for part in parts(rule) if kind_of(role) == kind]
            rules = [part for part in each if rights_of(kind, part) != [without]]
            self.kubectl("apply", "-f", "-", document={**role, "rules": rules})

    def refuses(self, call: Call) -> bool:
        """Whether the API server refuses it for want of a right; it may have no such object all the same."""

        async def answer() -> bool:
            async with Kube(self.kubeconfig) as kube:
                try:
                    await call(kube)
                except ApiError as error:
                    return error.status == 403
                return False

        return asyncio.run(answer())


def kind_of(role: dict[str, Any]) -> str:
    return "Retire" if role["metadata"]["name"].endswith("-retire") else str(role["kind"])


def rights_of(kind: str, rule: dict[str, Any]) -> list[Right]:
    return [
        (kind, group, resource, verb)
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def parts(rule: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """The rule as rules of one right each."""
    return [
        {**rule, "apiGroups": [group], "resources": [resource], "verbs": [verb]}
        for _, group, resource, verb in rights_of("", rule)
    ]


@pytest.fixture(scope="module")
def rights(cluster: Cluster, kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rights]:
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CHART / "crds"))
    kubectl("delete", "namespace", HERE, "--ignore-not-found", "--timeout=60s")
    kubectl("create", "namespace", HERE)
    # Watching one namespace, nothing is granted for all of them but the reading of nodes and their pods.
    command = [str(cluster.helm), "template", HERE, str(CHART), "-n", HERE, "--kube-version", "1.36.0"]
    # Those of a front are not the operator's, but the role has to be there for the right to bind it.
    shown = [part for name in ("rbac", "uninstall", "front") for part in ("--show-only", f"templates/{name}.yaml")]
    values = ["--set", f"watchNamespaces={{{HERE}}}", *shown]
    done = subprocess.run([*command, *values], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise SpongeError(done.stderr)
    documents = [each for each in yaml.safe_load_all(done.stdout) if each and each["kind"] != "Job"]
    granted = Rights(kubectl, tmp_path_factory.mktemp("rights") / "kubeconfig")
    granted.roles = [
        document
        for document in documents
        if document["kind"] in ("Role", "ClusterRole") and document["metadata"]["name"] != f"{HERE}-sponge-front"
    ]
    for document in documents:
        kubectl("apply", "-f", "-", document=document)
    account = next(document["metadata"]["name"] for document in documents if document["kind"] == "ServiceAccount")
    for kind in (
        "Secret",
        "ConfigMap",
        "Service",
        "Deployment",
        "ServiceAccount",
        "PodDisruptionBudget",
        "RoleBinding",
    ):
        kubectl("apply", "-f", "-", document=body(kind, "kept"))
    login = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    token = kubectl("create", "token", account, "-n", HERE).strip()
    login["users"] = [{"name": login["users"][0]["name"], "user": {"token": token}}]
    granted.kubeconfig.write_text(json.dumps(login))
    yield granted
    for document in documents:
        if document["kind"].startswith("ClusterRole"):
            kubectl("delete", document["kind"], document["metadata"]["name"])
    kubectl("delete", "namespace", HERE, "--wait=false")


def test_each_right_of_the_chart_is_tried(rights: Rights) -> None:
    assert rights.granted() == set(CALLS) | NOT_ASKED_HERE


@pytest.mark.parametrize("right", CALLS, ids=lambda right: "-".join(right[2:]).replace("/", "-") + f"-{right[0]}")
def test_without_the_right_a_call_of_the_operator_is_refused(rights: Rights, right: Right) -> None:
    call = CALLS[right]
    rights.grant(right[0])
    eventually(lambda: not rights.refuses(call), 5, "with all rights, the call is taken")
    rights.grant(right[0], without=right)
    eventually(lambda: rights.refuses(call), 5, "without this one, it is refused")
