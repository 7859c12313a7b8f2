"""What many idle services cost the operator: CPU, memory and calls to the API server, at rest."""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from operator_kit import Kubectl, Service, eventually, millicores, operator_pods, quota_file, scraped

from sponge_cluster import Cluster
from sponge_operator.clients.kube import Kube

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.long]

SERVICES = int(os.environ.get("SPONGE_E2E_SERVICES", "300"))
REST_S = 30.0


@dataclass(frozen=True)
class Cost:
    """CPU-seconds of the operator, and requests to the API server by everybody, up to now."""

    at: float
    cpu_s: float
    memory: float
    requests: float


def requests(kubectl: Kubectl) -> float:
    found = re.findall(r"^apiserver_request_total\{.* (\S+)$", kubectl("get", "--raw", "/metrics"), re.MULTILINE)
    return sum(map(float, found))


def look(kubectl: Kubectl) -> Cost:
    text = scraped(kubectl)
    return Cost(
        time.monotonic(),
        sample(text, "process_cpu_seconds_total"),
        sample(text, "process_resident_memory_bytes"),
        requests(kubectl),
    )


def sample(text: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


@dataclass(frozen=True)
class Rate:
    """Cores of the operator, its memory in MiB, and requests a second of everybody to the API server."""

    cores: float
    memory_mib: float
    requests: float


def rate(before: Cost, after: Cost) -> Rate:
    seconds = after.at - before.at
    cores = (after.cpu_s - before.cpu_s) / seconds
    return Rate(cores, after.memory / 2**20, (after.requests - before.requests) / seconds)


def at_rest(kubectl: Kubectl) -> Rate:
    before = look(kubectl)
    time.sleep(REST_S)
    return rate(before, look(kubectl))


def requests_of_others(kubectl: Kubectl) -> float:
    """Requests a second to the API server while there is no operator."""
    kubectl("scale", "deployment/sponge-operator", "-n", "sponge-system", "--replicas=0")
    eventually(lambda: not operator_pods(kubectl), 30, "the operator goes")
    time.sleep(5.0)  # for its watches to end
    before, began = requests(kubectl), time.monotonic()
    time.sleep(REST_S)
    found = (requests(kubectl) - before) / (time.monotonic() - began)
    kubectl("scale", "deployment/sponge-operator", "-n", "sponge-system", "--replicas=1")
    kubectl("rollout", "status", "deployment/sponge-operator", "-n", "sponge-system", "--timeout=60s")
    return found


def seconds_to_grow(cluster: Cluster, service: Service) -> float:
    """From the moment before the edit is sent until the kernel has the new size."""
    quota = quota_file(service.pod())

    async def edit() -> float:
        async with Kube(cluster.kubeconfig) as kube:
            began = time.monotonic()
            await kube.merge("SpongeService", service.namespace, service.name, {"spec": {"cpu": {"min": "500m"}}})
            while millicores(quota) != 500:
                assert time.monotonic() - began < 10.0
                await asyncio.sleep(0.002)
            return time.monotonic() - began

    took = asyncio.run(edit())
    service.patch(cpu={"min": "250m"})
    eventually(lambda: millicores(quota) == 250, 10, "it shrinks again")
    return took


@pytest.fixture
def crowd(kubectl: Kubectl, operator_running: None, namespace: str) -> Iterator[str]:
    """Services whose pods no node takes, so that only the operator and the API server have work."""
    apply_all(kubectl, namespace, "250m")
    yield namespace
    kubectl("delete", "sps", "--all", "-n", namespace, "--wait=false")
    eventually(lambda: not services(kubectl, namespace), 120, "all services go")


def apply_all(kubectl: Kubectl, namespace: str, least: str) -> None:
    spec = {
        "model": {"name": "digits", "source": "digits://"},
        "slo": {"latency": "300ms"},
        "cpu": {"min": least, "max": "1500m", "step": "125m"},
        "template": {"spec": {"nodeSelector": {"nowhere": "true"}}},
    }
    items = [
        {
            "apiVersion": "serving.sponge.dev/v1alpha1",
            "kind": "SpongeService",
            "metadata": {"name": f"s{number:04d}", "namespace": namespace},
            "spec": spec,
        }
        for number in range(SERVICES)
    ]
    for start in range(0, SERVICES, 100):
        part = items[start : start + 100]
        kubectl("apply", "-f", "-", document={"apiVersion": "v1", "kind": "List", "items": part})


def services(kubectl: Kubectl, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kubectl("get", "sps", "-n", namespace, "-o", "json"))["items"]
    return found


def reasons(kubectl: Kubectl, namespace: str) -> set[str]:
    told = [service.get("status", {}).get("conditions", []) for service in services(kubectl, namespace)]
    return {next((c["reason"] for c in conditions if c["type"] == "Ready"), "") for conditions in told}


def test_many_services_cost_next_to_nothing_and_slow_nobody_down(
    cluster: Cluster, kubectl: Kubectl, digits: Service, crowd: str, record_property: Any
) -> None:
    began = time.monotonic()
    # A cluster may have fewer addresses for Services; what lacks one is tried ever less often.
    told = {"Unschedulable", "ApplyFailed"}
    eventually(lambda: reasons(kubectl, crowd) <= told, 60, "the status of each says why it waits")
    told_s = time.monotonic() - began
    time.sleep(20.0)
    rest = at_rest(kubectl)
    before = look(kubectl)
    apply_all(kubectl, crowd, "500m")
    change = rate(before, look(kubectl))
    eventually(lambda: millicores(quota_file(digits.pod())) == 250, 40, "an idle pod has its smallest size")
    edits_s = sorted(seconds_to_grow(cluster, digits) for _ in range(10))
    others = requests_of_others(kubectl)
    figures = {
        "services": SERVICES,
        "told_s": told_s,
        "cores_at_rest": rest.cores,
        "requests_per_s_at_rest": rest.requests - others,
        "cores_under_change": change.cores,
        "MiB": max(rest.memory_mib, change.memory_mib),
        "edit_s_p50": statistics.median(edits_s),
        "edit_s_most": edits_s[-1],
    }
    for name, value in figures.items():
        print(f"{name}: {value:.3g}")
        record_property(name, round(value, 3))
    assert rest.cores <= 0.1 * SERVICES / 300
    assert change.cores <= 0.5
    assert rest.requests - others <= 5 * SERVICES / 300
    assert figures["MiB"] <= 200
    assert figures["edit_s_p50"] <= 0.2
