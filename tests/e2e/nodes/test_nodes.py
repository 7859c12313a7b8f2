"""Nodes that are full, hang, die and are cut off, in a real cluster of two nodes of one core each."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Literal

import pytest
from load_kit import Client, send
from operator_kit import (
    Kubectl,
    Service,
    beside,
    block_node,
    eventually,
    identity,
    millicores,
    quota_file,
    server_state,
)

import sponge_cluster
from sponge_cluster import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

RPS = 10
"""A rate that a server answers with any size."""

MOST_RPS = 300.0
"""What the tests send at most; more than a server answers with an eighth of a core."""


@pytest.fixture(scope="module")
def pair(operator_running: None, kubectl: Kubectl, shared_namespace: str) -> Service:
    """A service of two pods, which the operator spreads over the nodes."""
    service = Service(kubectl, shared_namespace, "digits")
    service.apply(
        model={"name": "digits", "source": "digits://"},
        slo={"latency": "300ms"},
        cpu={"min": "250m", "max": "500m", "step": "125m"},
        replicas={"min": 2, "max": 2},
    )
    service.wait_ready()
    return service


@pytest.fixture(autouse=True)
def at_rest(pair: Service, two_nodes: tuple[str, str]) -> None:
    """A pod on each node, at its smallest size, and nothing else there."""
    pair.kubectl("delete", "pod", "blocker", "-n", pair.namespace, "--ignore-not-found", "--timeout=30s")
    pair.patch(cpu={"min": "250m"})
    both_serve(pair)
    pods = pair.pods()
    if len({pod["spec"]["nodeName"] for pod in pods}) == 1:
        pair.kubectl("delete", "pod", pods[0]["metadata"]["name"], "-n", pair.namespace)
        eventually(lambda: len({pod["spec"].get("nodeName") for pod in pair.pods()} - {None}) == 2, 20, "it is spread")
        both_serve(pair)
    for pod in pair.pods():
        has(pod, 250, within_s=40)


def pod_on(service: Service, node: str) -> dict[str, Any]:
    """The one pod on a node."""
    (pod,) = (pod for pod in service.pods() if pod["spec"].get("nodeName") == node)
    return pod


def has(pod: dict[str, Any], milli: int, within_s: float) -> None:
    """Waits until the kernel grants the pod so much."""
    quota = quota_file(pod)
    eventually(lambda: millicores(quota) == milli, within_s, f"{pod['metadata']['name']} has {milli} millicores")


def both_serve(service: Service) -> None:
    eventually(lambda: service.is_("Ready", "True", "PodsReady"), 40, "both pods serve")


def says(service: Service, kind: str, reason: str, text: str) -> None:
    """Waits until a condition has this reason, and checks its message."""
    eventually(lambda: service.condition(kind).get("reason") == reason, 20, f"{kind} has the reason {reason}")
    assert text in service.condition(kind)["message"]


def all_are_answered(kubectl: Kubectl, service: Service) -> None:
    """Whatever pod a request to the Service is dealt to."""
    client = Client(kubectl, service, slo_ms=2000, rate=RPS, patience_s=5.0)
    with client.sending():
        time.sleep(3.0)
    assert set(client.since(0.0)) == {"200"}


def test_a_full_node_bounds_its_own_pod_only_and_the_status_names_it(
    kubectl: Kubectl, pair: Service, two_nodes: tuple[str, str]
) -> None:
    full, roomy = (pod_on(pair, node) for node in two_nodes)
    before = identity(full), identity(roomy)
    block_node(kubectl, two_nodes[0], pair.namespace, leave_milli=50)
    pair.patch(cpu={"min": "500m"})
    has(roomy, 500, within_s=5)
    says(pair, "ResizeBlocked", "Deferred", f"{full['metadata']['name']}: node {two_nodes[0]} has room for 0.3 cores")
    assert pair.is_("NodeFull", "True", "NodeFull")
    has(full, 300, within_s=5)  # what the node has
    kubectl("delete", "pod", "blocker", "-n", pair.namespace, "--timeout=30s")
    has(full, 500, within_s=20)
    eventually(lambda: pair.is_("NodeFull", "False", "Room"), 10, "no node is full")
    assert before == (identity(pod_on(pair, two_nodes[0])), identity(pod_on(pair, two_nodes[1])))


@pytest.mark.long
def test_a_load_that_a_full_node_cannot_carry_gets_a_pod_on_the_other_node(
    kubectl: Kubectl, namespace: str, two_nodes: tuple[str, str]
) -> None:
    service = Service(kubectl, namespace, "digits")
    service.apply(
        model={"name": "digits", "source": "digits://"},
        slo={"latency": "2s"},
        cpu={"min": "125m", "max": "500m", "step": "125m", "startup": "500m"},
        replicas={"min": 1, "max": 2},
        template={"spec": {"terminationGracePeriodSeconds": 5}},
    )
    service.wait_ready()
    first = service.pod()
    has(first, 125, within_s=40)
    node = first["spec"]["nodeName"]
    (other,) = set(two_nodes) - {node}
    block_node(kubectl, node, namespace, leave_milli=0)
    client = Client(kubectl, service, slo_ms=2000, rate=20.0)

    def another_is_requested() -> bool:
        client.rate = min(MOST_RPS, client.rate * 1.1)
        return len(service.pods()) == 2

    with client.sending():
        eventually(another_is_requested, 60, "while the load rises, another pod is requested")
        assert service.is_("NodeFull", "True", "NodeFull")
        assert f"{node}: {first['metadata']['name']} lacks cores" in service.condition("NodeFull")["message"]
        eventually(lambda: service.get()["status"]["scaling"].get("serving") == 2, 60, "and serves")
    print(f"another pod was requested at {client.rate:.0f} requests/s")
    assert [pod["spec"]["nodeName"] for pod in service.pods() if identity(pod) != identity(first)] == [other]
    all_are_answered(kubectl, service)


@pytest.mark.parametrize("fault", ["hangs", "dies"])
def test_a_size_that_a_kubelet_has_missed_is_in_force_soon_after_its_return(
    cluster: Cluster, pair: Service, two_nodes: tuple[str, str], fault: Literal["hangs", "dies"]
) -> None:
    node, (other, lost) = two_nodes[1], (pod_on(pair, name) for name in two_nodes)
    before = identity(lost)
    with beside(send, lost, "digits", RPS, 15, 2000) as load:
        if fault == "hangs":
            sponge_cluster.change_node(node, "pause", cluster.name)
        else:
            (pid,) = (p.pid for p in sponge_cluster.status(cluster.name).processes if p.name == "kubelet2")
            os.kill(pid, signal.SIGKILL)
        pair.patch(cpu={"min": "500m"})
        has(other, 500, within_s=5)
        says(pair, "ResizeBlocked", "Timeout", f"{lost['metadata']['name']}: 0.")
        says(pair, "Ready", "NodeNotReady", f"{lost['metadata']['name']}: node {node} does not report")
        assert millicores(quota_file(lost)) == 250
        assert server_state(pair, lost)["cores_milli"] == 250
    assert load.result() == {200: 15 * RPS}
    back = time.monotonic()
    sponge_cluster.change_node(node, "resume" if fault == "hangs" else "start", cluster.name)
    has(lost, 500, within_s=8)
    print(f"in force {time.monotonic() - back:.1f} s after the return of a kubelet that {fault}")
    both_serve(pair)
    says(pair, "ResizeBlocked", "NothingBlocked", "")
    assert identity(pod_on(pair, node)) == before


@pytest.mark.long
def test_a_node_dies_under_load_and_its_pod_is_replaced_once_there_is_room(
    cluster: Cluster, kubectl: Kubectl, pair: Service, two_nodes: tuple[str, str]
) -> None:
    first, second = two_nodes
    kept, lost = pod_on(pair, first), pod_on(pair, second)
    before = identity(kept)
    block_node(kubectl, first, pair.namespace, leave_milli=50)
    client = Client(kubectl, pair, slo_ms=2000, rate=RPS, patience_s=2.0)
    with beside(send, kept, "digits", RPS, 60, 2000) as load, client.sending():
        died = time.monotonic()
        sponge_cluster.change_node(second, "stop", cluster.name)
        says(pair, "Ready", "NodeNotReady", f"{lost['metadata']['name']}: node {second} does not report")
        says(pair, "Ready", "Unschedulable", "Insufficient cpu")
        assert pair.is_("Available", "True", "PodsServe")
        kubectl("delete", "pod", "blocker", "-n", pair.namespace, "--timeout=30s")
        both_serve(pair)
        print(f"two pods serve {time.monotonic() - died:.1f} s after the death of a node")
    assert load.result() == {200: 60 * RPS}
    missed = [at - died for at, outcome in client.outcomes if outcome != "200"]
    print(f"{len(missed)} of {len(client.outcomes)} requests missed, the last one sent after {max(missed):.1f} s")
    all_are_answered(kubectl, pair)
    assert identity(next(pod for pod in pair.pods() if pod["metadata"]["uid"] == kept["metadata"]["uid"])) == before
    sponge_cluster.change_node(second, "start", cluster.name)
    kubectl("wait", "--for=delete", f"pod/{lost['metadata']['name']}", "-n", pair.namespace, "--timeout=60s")


@pytest.mark.long
def test_a_node_that_was_cut_off_gets_the_sizes_that_it_has_missed(
    cluster: Cluster, kubectl: Kubectl, pair: Service, two_nodes: tuple[str, str]
) -> None:
    node, (other, lost) = two_nodes[1], (pod_on(pair, name) for name in two_nodes)
    before = identity(lost)
    with beside(send, other, "digits", RPS, 30, 2000) as load:
        sponge_cluster.change_node(node, "cut", cluster.name)
        pair.patch(cpu={"min": "500m"})
        has(other, 500, within_s=5)
        eventually(lambda: pair.condition("Ready").get("status") == "False", 20, "the pod is no longer counted")
        says(pair, "Planning", "Auto", f"{lost['metadata']['name']} keeps its size, because its server does not answer")
        assert millicores(quota_file(lost)) == 250
        healed = time.monotonic()
        sponge_cluster.change_node(node, "heal", cluster.name)
        has(lost, 500, within_s=15)
        print(f"in force {time.monotonic() - healed:.1f} s after a node is on the network again")
        both_serve(pair)
        print(f"both pods serve {time.monotonic() - healed:.1f} s after")
    assert load.result() == {200: 30 * RPS}
    assert identity(pod_on(pair, node)) == before
    all_are_answered(kubectl, pair)
