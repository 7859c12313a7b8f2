"""Two services in the real cluster that together want more than their node has."""

from __future__ import annotations

import re
import threading
from functools import partial
from pathlib import Path

import pytest
from load_kit import rate_of, send
from operator_kit import Kubectl, Service, block_node, eventually, identity, millicores, quota_file, scraped

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.usefixtures("operator_running")]

ROOM, STARTUP = 1500, 750
LOAD_S = 8.0
LOAD_CORES = 1.75
"""Of each service: more than its largest size."""


def has_cores(service: Service, cores: str) -> bool:
    return bool(service.get()["status"].get("cores") == cores)


def has_node(service: Service) -> bool:
    pods = service.pods()
    return len(pods) == 1 and "nodeName" in pods[0]["spec"]


def has_quota(quota: Path, milli: int) -> bool:
    return millicores(quota) == milli


def deferred(kubectl: Kubectl) -> float:
    pattern = r'^sponge_operator_resize_total\{.*outcome="deferred".*\} (\S+)$'
    counts = re.findall(pattern, scraped(kubectl), re.MULTILINE)
    return sum(map(float, counts))


def test_two_services_share_a_node_without_a_deferred_resize(kubectl: Kubectl, namespace: str) -> None:
    services = [Service(kubectl, namespace, name) for name in ("left", "right")]
    for service in services:
        service.apply(
            model={"name": service.name, "source": "torchvision://resnet18?weights=none"},
            slo={"latency": "400ms", "target": 50},
            batch={"max": 2},
            cpu={"min": "250m", "max": "1500m", "step": "125m", "startup": f"{STARTUP}m"},
        )
    for service in services:
        eventually(partial(has_node, service), 20, "the pod is scheduled")
    nodes = {service.pod()["spec"]["nodeName"] for service in services}
    if len(nodes) > 1:
        pytest.skip("the scheduler put them on two nodes")
    # Besides what they start with: together they can have 1.5 cores, and both will want that much. The blocker is there
    # before they are driven, because the operator looks at a shared node only every few seconds.
    block_node(kubectl, nodes.pop(), namespace, leave_milli=ROOM - 2 * STARTUP)
    for service in services:
        service.wait_ready()
        eventually(partial(has_cores, service, "0.25"), 40, "an idle pod shrinks to cpu.min")
    pods = [service.pod() for service in services]
    before, quotas = [identity(pod) for pod in pods], [quota_file(pod) for pod in pods]
    refused_before = deferred(kubectl)

    rates = [rate_of(service, pod, LOAD_CORES) for service, pod in zip(services, pods, strict=True)]
    counts: list[dict[int, int]] = [{}, {}]

    def load(index: int) -> None:
        counts[index].update(send(pods[index], services[index].name, rates[index], seconds=LOAD_S, slo_ms=400))

    loads = [threading.Thread(target=load, args=(index,)) for index in (0, 1)]
    for thread in loads:
        thread.start()
    most, shared = 0, False
    while any(thread.is_alive() for thread in loads):
        most = max(most, sum(millicores(quota) for quota in quotas))
        shared = shared or any(service.is_("ResizeBlocked", "True", "NodeShared") for service in services)
    for thread in loads:
        thread.join()
    assert 500 < most <= ROOM
    assert shared, "one of them was refused what it wished, and says so"
    assert ("Warning", "NodeShared") in [event for service in services for event in service.events()]
    assert deferred(kubectl) == refused_before
    # Either rule: the solver's time is short, and the load takes the node's cores.
    assert re.search(r'^sponge_operator_joint_plans_total\{how="(program|greedy)"\}', scraped(kubectl), re.MULTILINE)
    assert all(count.get(200, 0) > 0 for count in counts)

    # The load has gone: nobody is refused anything, and no container was restarted.
    for service, quota in zip(services, quotas, strict=True):
        eventually(partial(has_quota, quota, 250), 30, "an idle pod shrinks to cpu.min")
        eventually(partial(service.is_, "ResizeBlocked", "False", "NothingBlocked"), 20, "the refusal ends")
    assert [identity(service.pod()) for service in services] == before
