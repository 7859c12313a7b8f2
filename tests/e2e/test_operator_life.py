"""The life of a SpongeService in the real cluster: made, resized in place under load, restored and removed."""

from __future__ import annotations

import json
import threading

import pytest
from conftest import Kubectl
from operator_kit import Service, eventually, identity, millicores, quota_file, send

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.usefixtures("operator_running")]

CHILDREN = "deployments,pods,services,secrets,configmaps"


def test_a_service_follows_its_load_in_place(kubectl: Kubectl, namespace: str) -> None:
    service = Service(kubectl, namespace, "resnet18")
    service.apply(
        model={"name": "resnet18", "source": "torchvision://resnet18?weights=none"},
        slo={"latency": "600ms", "target": 90},
        cpu={"min": "250m", "max": "1500m", "step": "125m"},
    )
    service.wait_ready()
    pod = service.pod()
    before, quota = identity(pod), quota_file(pod)
    assert pod["status"]["qosClass"] == "Guaranteed"

    # Idle: the smallest size, in the kernel and in the status.
    eventually(lambda: millicores(quota) == 250, 20, "an idle pod shrinks to cpu.min")
    eventually(lambda: service.get()["status"].get("cores") == "0.25", 10, "the status follows")

    # Under load it grows while the load lasts, without a restart.
    largest = 250
    counts: dict[int, int] = {}
    load = threading.Thread(target=lambda: counts.update(send(pod, "resnet18", rate=12, seconds=10, slo_ms=600)))
    load.start()
    while load.is_alive():
        largest = max(largest, millicores(quota))
        load.join(0.02)
    assert largest > 250
    assert sum(counts.values()) == 120
    assert counts.get(200, 0) >= 60
    eventually(lambda: service.get()["status"].get("attainment"), 10, "the status says how many were in time")
    decision = service.get()["status"]["lastDecision"]
    assert decision["applied"]

    # Idle again: back to the smallest size, and still the same container.
    eventually(lambda: millicores(quota) == 250, 30, "the pod shrinks when the load is gone")
    assert identity(service.pod()) == before
    assert before[2] == 0
    row = kubectl("get", "sps", "resnet18", "-n", namespace).splitlines()
    assert " ".join(row[0].split()) == "NAME MODEL SLO CORES BATCH REPLICAS ATTAINED P99 MODE READY AGE"
    assert ("Normal", "Ready") in service.events()

    # Deleted and its pods kept: they have the size back that they started with.
    kubectl("delete", "sps", "resnet18", "-n", namespace, "--cascade=orphan", "--timeout=30s")
    eventually(lambda: millicores(quota) == 1000, 10, "the original size is restored")
    assert identity(service.pod()) == before


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
