"""The operator's reading of Pod Security against the API server's own, for every template of the operator's table."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from operator_kit import Kubectl

from sponge_cluster import Cluster
from sponge_operator.resources.manifests import build_deployment
from sponge_operator.resources.model import parse_service

pytestmark = pytest.mark.e2e

TABLE = Path(__file__).parents[1] / "operator" / "data" / "pod_security.yaml"
CASES: list[dict[str, Any]] = yaml.safe_load(TABLE.read_text())


def pod_of(case: dict[str, Any], number: int, namespace: str) -> dict[str, Any]:
    """The pod that the operator would have made of the case's template."""
    metadata = {"name": f"case-{number}", "namespace": namespace, "uid": "u"}
    spec = {
        "model": {"name": "digits", "source": "digits://"},
        "slo": {"latency": "1s"},
        "cpu": {"min": "1", "max": "1"},
        "template": case["template"],
    }
    deployment = build_deployment(parse_service({"metadata": metadata, "spec": spec}), 1000, "sponge-server:1", {}, "k")
    template = deployment["spec"]["template"]
    identity = {"name": f"case-{number}", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {**template["metadata"], **identity}}


def refused(cluster: Cluster, namespace: str) -> set[str]:
    """The cases that the API server refuses for their security; every other one is taken."""
    pods = [pod_of(case, number, namespace) for number, case in enumerate(CASES)]
    done = subprocess.run(
        [str(cluster.kubectl), "--kubeconfig", str(cluster.kubeconfig), "create", "--dry-run=server", "-f", "-"],
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    taken = {int(number) for number in re.findall(r"pod/case-(\d+) created", done.stdout)}
    violating = {int(number) for number in re.findall(r'pods "case-(\d+)" is forbidden: violates', done.stderr)}
    assert taken | violating == set(range(len(CASES))), done.stderr
    return {CASES[number]["why"] for number in violating}


@pytest.mark.parametrize("level", ["restricted", "baseline"])
def test_same_verdict_as_the_api_server(cluster: Cluster, kubectl: Kubectl, namespace: str, level: str) -> None:
    kubectl("label", "namespace", namespace, f"pod-security.kubernetes.io/enforce={level}")
    stricter = {case["why"] for case in CASES if case.get("stricter")} if level == "baseline" else set()
    assert refused(cluster, namespace) == {case["why"] for case in CASES if case.get(level)} - stricter
