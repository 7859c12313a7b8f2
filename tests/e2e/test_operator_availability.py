"""The operator goes away in the real cluster: uninstalled, killed, stopped; services go on and nothing hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from load_kit import send
from operator_kit import (
    Kubectl,
    Service,
    by_hand,
    eventually,
    identity,
    millicores,
    operator_pods,
    quota_file,
    server_state,
)

from sponge_cluster import Cluster
from sponge_cluster.chart import NAMESPACE, RELEASE, install_operator

pytestmark = [pytest.mark.e2e, pytest.mark.torch]


SPEC: dict[str, Any] = {
    "model": {"name": "digits", "source": "digits://"},
    "slo": {"latency": "300ms"},
    "cpu": {"min": "250m", "max": "1", "step": "250m"},
    "template": {"spec": {"nodeSelector": {"nowhere": "true"}}},
}


def leader(kubectl: Kubectl) -> str:
    """The name of the pod that acts; empty while none does."""
    lease = json.loads(kubectl("get", "lease", "sponge-operator", "-n", NAMESPACE, "-o", "json"))
    return str(lease["spec"].get("holderIdentity") or "")


def pid_of(pod: dict[str, Any]) -> int:
    """The process of the operator in a pod, as this machine knows it."""
    for folder in Path("/sys/fs/cgroup").glob(f"**/pod{pod['metadata']['uid']}/*/cgroup.procs"):
        for pid in folder.read_text().split():
            if b"operator\0run" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    raise AssertionError(f"no operator runs in {pod['metadata']['name']}")


@pytest.fixture
def reinstalled(cluster: Cluster, kubectl: Kubectl) -> Iterator[None]:
    """The operator is there, as the other tests know it, when the test is over."""
    yield
    install_operator(cluster)


def uninstall(cluster: Cluster) -> None:
    command = [str(cluster.helm), "--kubeconfig", str(cluster.kubeconfig), "uninstall", RELEASE, "-n", NAMESPACE]
    done = subprocess.run([*command, "--wait"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def left_behind(kubectl: Kubectl) -> list[str]:
    """What is still there of the operator, beside its namespace, the CRD, and what every namespace has."""
    own = (
        "get",
        "all,configmaps,secrets,serviceaccounts,leases,roles,rolebindings,poddisruptionbudgets,networkpolicies",
    )
    in_namespace = kubectl(*own, "-n", NAMESPACE, "-o", "name").split()
    of_cluster = kubectl("get", "clusterroles,clusterrolebindings", "-o", "name").split()
    usual = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
    return [name for name in in_namespace if name not in usual] + [name for name in of_cluster if "/sponge-" in name]


@pytest.mark.usefixtures("operator_running", "reinstalled")
def test_nothing_hangs_without_an_operator(cluster: Cluster, kubectl: Kubectl, namespace: str, digits: Service) -> None:
    quota, before = quota_file(digits.pod()), identity(digits.pod())
    eventually(lambda: millicores(quota) == 250, 40, "an idle pod has its smallest size")
    services = [Service(kubectl, namespace, name) for name in ("first", "second")]
    for service in services:
        service.apply(**SPEC)
    eventually(
        lambda: all(service.get().get("status", {}).get("conditions") for service in services),
        20,
        "the operator has seen them",
    )
    for service in services:
        assert not service.get()["metadata"].get("finalizers")
    # Services from before may have the finalizer of that time.
    patch = json.dumps({"metadata": {"finalizers": ["serving.sponge.dev/restore-size"]}})
    kubectl("patch", "sps", "first", "-n", namespace, "--type=merge", "-p", patch)
    eventually(lambda: not services[0].get()["metadata"].get("finalizers"), 10, "the operator removes it")
    uninstall(cluster)
    # The operator asks for it before it ends; the kubelet may be slower than what ends it.
    what = "jsonpath={.spec.containers[*].resources} {.status.conditions}"
    print(kubectl("get", "pod", digits.pod()["metadata"]["name"], "-n", digits.namespace, "-o", what))  # if it fails
    eventually(lambda: millicores(quota) == 1000, 60, "the pod has its fallback size when the operator has gone")
    assert identity(digits.pod()) == before
    assert left_behind(kubectl) == []
    kubectl("delete", "sps", "first", "-n", namespace, "--timeout=10s")
    kubectl("delete", "namespace", namespace, "--timeout=40s")
    kubectl("create", "namespace", namespace)  # for the fixture, which deletes it


@pytest.mark.long
@pytest.mark.usefixtures("reinstalled")
def test_what_stays_after_an_uninstall_serves_on_and_is_driven_by_the_next_operator(
    cluster: Cluster, kubectl: Kubectl, namespace: str, digits: Service
) -> None:
    pod, quota = digits.pod(), quota_file(digits.pod())
    # Here the services go first, and the operator after them.
    gone = Service(kubectl, namespace, "gone")
    gone.apply(**SPEC)
    eventually(lambda: gone.get().get("status", {}).get("conditions"), 20, "the operator has seen it")
    kubectl("delete", "namespace", namespace, "--timeout=40s")
    kubectl("create", "namespace", namespace)  # for the fixture, which deletes it
    uninstall(cluster)
    assert send(pod, "digits", rate=5, seconds=1, slo_ms=2000) == {200: 5}
    by_hand(digits, 1000)
    eventually(lambda: server_state(digits, pod)["cores_milli"] == 1000, 90, "without an operator, the quota rules")
    install_operator(cluster)
    eventually(lambda: millicores(quota) == 250, 30, "the next operator drives it")
    eventually(lambda: digits.is_("Planning", "True", "Auto"), 10, "and says so")
    assert identity(digits.pod()) == identity(pod)


@pytest.mark.usefixtures("reinstalled")
def test_another_operator_takes_over(cluster: Cluster, kubectl: Kubectl, digits: Service) -> None:
    pod, quota = digits.pod(), quota_file(digits.pod())
    install_operator(cluster, {"replicas": 2})

    def one_of_two_leads() -> bool:
        # The Lease may still name the operator of before.
        names = [one["metadata"]["name"] for one in operator_pods(kubectl)]
        return len(names) == 2 and leader(kubectl) in names

    eventually(one_of_two_leads, 60, "two operators, of which one leads")
    # It dies in the middle of a resize.
    first = leader(kubectl)
    (acting,) = [one for one in operator_pods(kubectl) if one["metadata"]["name"] == first]
    digits.patch(cpu={"min": "500m", "max": "1500m", "step": "125m"})
    os.kill(pid_of(acting), signal.SIGKILL)
    began = time.monotonic()
    eventually(lambda: millicores(quota) == 500, 15, "somebody finishes it")
    print(f"failed over in {time.monotonic() - began:.1f} s from {first} to {leader(kubectl)}")
    # One that stops in order hands over at once.
    second = leader(kubectl)
    kubectl("delete", "pod", second, "-n", NAMESPACE, "--wait=false")
    began = time.monotonic()
    eventually(lambda: leader(kubectl) not in ("", second), 10, "the other one takes over")
    digits.patch(cpu={"min": "250m", "max": "1500m", "step": "125m"})
    eventually(lambda: millicores(quota) == 250, 10, "and drives the pod")
    print(f"handed over in {time.monotonic() - began:.1f} s")
    eventually(lambda: digits.is_("Planning", "True", "Auto"), 5, "the status is its own")
    assert identity(digits.pod()) == identity(pod)


@pytest.mark.usefixtures("operator_running")
def test_a_leader_that_was_stopped_for_long_finds_itself_replaced_or_goes_on(kubectl: Kubectl, digits: Service) -> None:
    """Alone, it takes its own Lease again; its process does not restart."""
    quota = quota_file(digits.pod())
    (pod,) = operator_pods(kubectl)
    pid = pid_of(pod)
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(12)
    finally:
        os.kill(pid, signal.SIGCONT)
    digits.patch(cpu={"min": "500m", "max": "1500m", "step": "125m"})
    eventually(lambda: millicores(quota) == 500, 15, "it goes on")
    digits.patch(cpu={"min": "250m", "max": "1500m", "step": "125m"})
    eventually(lambda: millicores(quota) == 250, 10, "and on")
    assert pid_of(operator_pods(kubectl)[0]) == pid
