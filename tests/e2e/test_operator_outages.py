"""Half a minute without API server or kubelet, and a node of Kubernetes 1.35, in the real cluster."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator

import pytest
from load_kit import send
from operator_kit import (
    Kubectl,
    Service,
    beside,
    eventually,
    identity,
    millicores,
    operator_address,
    operator_restarts,
    quota_file,
    resizes,
    server_state,
    standing_still,
)

from sponge_cluster import Cluster
from sponge_core.quantities import parse_cpu_milli

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.long]

OUTAGE_S = 30.0


@pytest.fixture(autouse=True)
def at_rest(digits: Service) -> Iterator[None]:
    def rests() -> bool:
        return millicores(quota_file(digits.pod())) == 250

    eventually(rests, 40, "an idle pod has its smallest size")
    yield
    digits.patch(cpu={"min": "250m"})
    eventually(rests, 30, "the pod is idle again")


def test_without_the_api_server_requests_are_answered_and_the_operator_comes_back(
    cluster: Cluster, kubectl: Kubectl, digits: Service
) -> None:
    pod, quota, before = digits.pod(), quota_file(digits.pod()), identity(digits.pod())
    operator, restarts = operator_address(kubectl), operator_restarts(kubectl)

    def ask(port: int, path: str) -> str:
        with urllib.request.urlopen(f"http://{operator}:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    with beside(send, pod, "digits", 10, OUTAGE_S, 2000) as load:
        with standing_still(cluster, "kube-apiserver"):
            began = time.monotonic()
            # Whoever cannot renew its Lease does not act, so that never two do.
            eventually(lambda: "sponge_operator_leading 0.0" in ask(9091, "/metrics"), 20, "it leads no more")
            time.sleep(max(0.0, began + OUTAGE_S - time.monotonic()))
            assert json.loads(ask(9092, "/healthz"))["alive"]
        digits.patch(cpu={"min": "1"})
        back = time.monotonic()
        eventually(lambda: millicores(quota) == 1000, 15, "an edit is in force again")
        print(f"driven again {time.monotonic() - back:.1f} s after the API server")
    assert load.result() == {200: round(10 * OUTAGE_S)}
    eventually(lambda: "sponge_operator_leading 1.0" in ask(9091, "/metrics"), 5, "it leads again")
    eventually(lambda: digits.is_("Planning", "True", "Auto"), 10, "the service is planned for")
    assert digits.is_("Ready", "True", "PodsReady")
    # The other watches live, too.
    kubectl("autoscale", "deployment", "digits", "-n", digits.namespace, "--min=1", "--max=1", "--cpu=50%")
    eventually(lambda: digits.is_("Conflict", "True", "OtherAutoscaler"), 10, "an HPA is seen")
    kubectl("delete", "hpa", "digits", "-n", digits.namespace)
    eventually(lambda: digits.is_("Conflict", "False", "NoConflict"), 10, "and its end")
    assert operator_restarts(kubectl) == restarts
    assert identity(digits.pod()) == before


def test_without_the_kubelet_the_status_says_what_waits_and_the_resize_comes_in_force_later(
    cluster: Cluster, kubectl: Kubectl, digits: Service
) -> None:
    pod, quota, before = digits.pod(), quota_file(digits.pod()), identity(digits.pod())
    timeouts = resizes(kubectl, digits, "timeout", "Timeout")
    with beside(send, pod, "digits", 10, OUTAGE_S, 2000) as load:
        with standing_still(cluster, "kubelet"):
            began = time.monotonic()
            digits.patch(cpu={"min": "1"})
            eventually(lambda: digits.is_("ResizeBlocked", "True", "Timeout"), 8, "the condition says what waits")
            assert "1 cores are not in force" in digits.condition("ResizeBlocked")["message"]
            assert digits.get()["status"]["cores"] == "0.25"
            # What the server uses is what the kernel grants, not what was asked for.
            assert server_state(digits, pod)["cores_milli"] == 250
            time.sleep(max(0.0, began + OUTAGE_S - time.monotonic()))
            assert millicores(quota) == 250
        eventually(lambda: millicores(quota) == 1000, 10, "the kubelet catches up")
        eventually(lambda: digits.is_("ResizeBlocked", "False", "NothingBlocked"), 10, "nothing is blocked any more")
        eventually(lambda: server_state(digits, pod)["cores_milli"] == 1000, 5, "and the server uses it")
    assert load.result() == {200: round(10 * OUTAGE_S)}
    assert ("Warning", "ResizeTimeout") in digits.events()
    assert resizes(kubectl, digits, "timeout", "Timeout") > timeouts
    assert identity(digits.pod()) == before


def test_a_kubelet_of_1_35_marks_a_size_as_infeasible_and_what_the_node_has_is_used(
    cluster: Cluster, kubectl: Kubectl, digits: Service
) -> None:
    """The kubelet of this cluster stands still while the status says what that of 1.35 was recorded to say."""
    quota, before = quota_file(digits.pod()), identity(digits.pod())
    name = digits.pod()["metadata"]["name"]

    def refusal() -> str:
        """What the condition says of the refusal; empty until it does."""
        pod = digits.pod()
        asked = parse_cpu_milli(pod["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        if asked > 800:
            pending = {
                "type": "PodResizePending",
                "status": "True",
                "reason": "Infeasible",
                "message": f"Node didn't have enough capacity: cpu, requested: {asked}, capacity: 800",
                "observedGeneration": pod["metadata"]["generation"],
            }
            status = json.dumps({"status": {"conditions": [pending]}})
            kubectl("patch", "pod", name, "-n", digits.namespace, "--subresource=status", "-p", status)
        blocked = digits.condition("ResizeBlocked")
        return str(blocked["message"]) if blocked.get("reason") == "Infeasible" else ""

    with standing_still(cluster, "kubelet"):
        digits.patch(cpu={"min": "1125m"})
        said = eventually(refusal, 8, "the condition says why")
        assert "has room for 0.8 cores of this container" in said
    eventually(lambda: millicores(quota) == 800, 10, "the largest size that the node has is in force")
    assert ("Warning", "ResizeInfeasible") in digits.events()
    assert resizes(kubectl, digits, "infeasible", "Infeasible") >= 1
    # This node is larger than the one that was recorded: after a minute, the size is tried again.
    eventually(lambda: millicores(quota) == 1125, 75, "what is refused no more is in force")
    eventually(lambda: digits.is_("ResizeBlocked", "False", "NothingBlocked"), 10, "and nothing is blocked")
    assert identity(digits.pod()) == before
