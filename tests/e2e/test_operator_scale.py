"""What many idle services cost the operator: CPU, memory and calls to the API server, at rest."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from operator_kit import Kubectl, eventually, scraped

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


def look(kubectl: Kubectl) -> Cost:
    text = scraped(kubectl)
    requests = re.findall(r"^apiserver_request_total\{.* (\S+)$", kubectl("get", "--raw", "/metrics"), re.MULTILINE)
    return Cost(
        time.monotonic(),
        sample(text, "process_cpu_seconds_total"),
        sample(text, "process_resident_memory_bytes"),
        sum(map(float, requests)),
    )


def sample(text: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def at_rest(kubectl: Kubectl) -> tuple[float, float, float]:
    """Cores of the operator, its memory in MiB, and requests a second to the API server."""
    before = look(kubectl)
    time.sleep(REST_S)
    after = look(kubectl)
    seconds = after.at - before.at
    return (
        (after.cpu_s - before.cpu_s) / seconds,
        after.memory / 2**20,
        (after.requests - before.requests) / seconds,
    )


@pytest.fixture
def crowd(kubectl: Kubectl, operator_running: None, namespace: str) -> Iterator[str]:
    """Services whose pods no node takes, so that only the operator and the API server have work."""
    spec = {
        "model": {"name": "digits", "source": "digits://"},
        "slo": {"latency": "300ms"},
        "cpu": {"min": "250m", "max": "1500m", "step": "125m"},
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
    yield namespace
    kubectl("delete", "sps", "--all", "-n", namespace, "--wait=false")
    eventually(lambda: not services(kubectl, namespace), 120, "all services go")


def services(kubectl: Kubectl, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kubectl("get", "sps", "-n", namespace, "-o", "json"))["items"]
    return found


def reasons(kubectl: Kubectl, namespace: str) -> set[str]:
    told = [service.get("status", {}).get("conditions", []) for service in services(kubectl, namespace)]
    return {next((c["reason"] for c in conditions if c["type"] == "Ready"), "") for conditions in told}


def test_idle_services_cost_next_to_nothing(kubectl: Kubectl, crowd: str, record_property: Any) -> None:
    began = time.monotonic()
    # The local cluster has addresses for about 250 Services; what lacks one is tried ever less often.
    told = {"Unschedulable", "ApplyFailed"}
    eventually(lambda: reasons(kubectl, crowd) <= told, 60, "the status of each says why it waits")
    told_s = time.monotonic() - began
    time.sleep(20.0)
    cores, memory_mib, with_operator = at_rest(kubectl)
    figures = {"services": SERVICES, "told_s": round(told_s, 1), "cores": round(cores, 3), "MiB": round(memory_mib)}
    print(figures, "requests a second of everybody:", round(with_operator, 1))
    for name, value in {**figures, "requests_per_s": round(with_operator, 1)}.items():
        record_property(name, value)
    assert cores <= 0.1 * SERVICES / 300
    assert memory_mib <= 200
