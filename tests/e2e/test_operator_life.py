"""The end of a SpongeService in the real cluster: what it owns goes with it."""

from __future__ import annotations

import json

import pytest
from operator_kit import Kubectl, Service, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.usefixtures("operator_running")]

CHILDREN = "deployments,pods,services,secrets,configmaps"


def test_deleting_a_service_removes_what_it_owns(kubectl: Kubectl, namespace: str) -> None:
    service = Service(kubectl, namespace, "digits")
    service.apply(
        model={"name": "digits", "source": "digits://"},
        slo={"latency": "300ms"},
        cpu={"min": "250m", "max": "1", "step": "250m"},
    )

    def children() -> list[str]:
        items = json.loads(kubectl("get", CHILDREN, "-n", namespace, "-l", "serving.sponge.dev/service", "-o", "json"))
        return sorted({item["kind"] for item in items["items"]})

    expected = ["ConfigMap", "Deployment", "Pod", "Secret", "Service"]
    eventually(lambda: children() == expected, 20, "the operator makes the children")
    # Even while it is still loading.
    kubectl("delete", "sps", "digits", "-n", namespace, "--timeout=30s")
    eventually(lambda: not children(), 60, "the garbage collector removes the children")
