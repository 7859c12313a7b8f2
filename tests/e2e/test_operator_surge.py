"""A surge beyond what one pod can take: a second pod follows, and goes again without losing a request."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from load_kit import Client
from operator_kit import Kubectl, Service, eventually, scraped

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.usefixtures("operator_running")]

CORES, SMALLEST = 0.5, 0.125


def replicas(service: Service) -> int:
    found = service.kubectl("get", "deployment", service.name, "-n", service.namespace, "-o", "json")
    return int(json.loads(found)["spec"]["replicas"])


def scaling(service: Service) -> dict[str, Any]:
    return dict(service.get().get("status", {}).get("scaling", {}))


def test_a_surge_beyond_one_pod_starts_another_which_goes_again_without_a_lost_request(
    kubectl: Kubectl, namespace: str
) -> None:
    service = Service(kubectl, namespace, "surge")
    service.apply(
        model={"name": "surge", "source": "torchvision://resnet18?weights=none"},
        slo={"latency": "2s"},
        batch={"max": 2},
        cpu={"min": f"{SMALLEST}", "max": f"{CORES}", "step": "125m", "startup": f"{CORES}"},
        replicas={"min": 1, "max": 2},
    )
    service.wait_ready(240)
    eventually(lambda: service.is_("Scaling", "True", "Settled"), 10, "the load is known")
    client = Client(kubectl, service, slo_ms=2000, rate=4.0)
    with client.sending():
        time.sleep(8.0)
        assert replicas(service) == 1, "one pod serves this"
        # Twice what one pod can do, on whatever machine this is.
        client.rate *= 2 * CORES / float(scaling(service)["load"])
        eventually(lambda: replicas(service) == 2, 40, "the load asks for another pod")
        eventually(lambda: scaling(service).get("serving") == 2, 90, "and it serves")
        client.rate = 2.0
        time.sleep(3.0)  # what the surge has left
        calm = time.monotonic()
        eventually(lambda: replicas(service) == 1, 120, "one of them can be spared")
        eventually(lambda: len(service.pods()) == 1, 20, "and goes")
        time.sleep(8.0)  # its last requests, and others while it drains
    assert set(client.since(calm)) == {"200"}, "no request was lost"
    told = service.events()
    assert ("Normal", "ScaledOut") in told
    assert ("Normal", "ScaledIn") in told
    assert 'sponge_operator_scalings_total{direction="in"' in scraped(kubectl)


def test_all_pods_go_without_requests_and_one_comes_for_whoever_waits(kubectl: Kubectl, namespace: str) -> None:
    service = Service(kubectl, namespace, "seldom")
    service.apply(
        model={"name": "seldom", "source": "digits://"},
        slo={"latency": "1s"},
        cpu={"min": "125m", "max": "500m", "step": "125m", "startup": "500m"},
        replicas={"min": 0, "max": 2},
        idle={"removeAfter": "10s"},
    )
    eventually(lambda: service.is_("Ready", "True", "PodsReady"), 60, "a new service has a pod")
    eventually(lambda: service.is_("Ready", "True", "ScaledToZero"), 30, "nothing was asked of it")
    eventually(lambda: not service.pods(), 20, "its pod is gone")
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    kubectl("annotate", "sps", service.name, "-n", namespace, "--overwrite", f"serving.sponge.dev/wake={now}")
    eventually(lambda: service.is_("Ready", "True", "PodsReady"), 60, "somebody waits for one")
    eventually(lambda: service.is_("Ready", "True", "ScaledToZero"), 40, "but asks nothing")
