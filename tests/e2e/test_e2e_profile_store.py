"""A measured profile is kept in the cluster, and the next pod starts with it."""

from __future__ import annotations

import json

import pytest
from operator_kit import Kubectl, Service, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.torch]


def origin(service: Service, pod: str) -> str:
    """Where the pod's profile came from, as its log says."""
    lines = service.kubectl("logs", pod, "-n", service.namespace, "-c", "server").splitlines()
    return str(json.loads(next(line for line in lines if "profile.taken" in line))["origin"])


def test_a_new_pod_starts_with_the_profile_that_an_earlier_one_measured(digits: Service, kubectl: Kubectl) -> None:
    where = ("-n", digits.namespace)

    def kept() -> list[str]:
        listed = kubectl("get", "configmap", "digits-sponge-profiles", *where, "--ignore-not-found", "-o", "json")
        return list(json.loads(listed).get("data") or {}) if listed else []

    (key,) = eventually(kept, 20, "the first pod's profile is kept")
    assert key.endswith(".yaml")
    first = digits.pod()["metadata"]["name"]
    kubectl("delete", "pod", first, *where, "--wait=false")

    def next_is_ready() -> str:
        pods = [pod for pod in digits.pods() if pod["metadata"]["name"] != first]
        ready = [c for pod in pods for c in pod["status"].get("conditions", ()) if c["type"] == "Ready"]
        return str(pods[0]["metadata"]["name"]) if ready and ready[0]["status"] == "True" else ""

    second = eventually(next_is_ready, 60, "the next pod is ready")
    assert origin(digits, second) == "stored"
