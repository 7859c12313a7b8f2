"""What a pod may have, in the real cluster: a full node beside a side-car, a LimitRange, a ResourceQuota."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from load_kit import rows_of, send
from operator_kit import (
    Kubectl,
    Service,
    beside,
    block_node,
    by_hand,
    eventually,
    identity,
    millicores,
    quota_file,
    resizes,
)

from sponge_cluster import BUSYBOX_IMAGE

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

LOAD_RPS = 40
LOAD_CORES = 2.0
"""More than the largest size, so that the pod asks for all that it can have."""


@contextmanager
def busy(service: Service, seconds: float = 12) -> Iterator[None]:
    """Sends more than the pod can answer, on a machine of any speed; waits for the end of the load."""
    pod = service.pod()
    rows = rows_of(service, pod, LOAD_CORES / LOAD_RPS)
    with beside(send, pod, "digits", LOAD_RPS, seconds, 300, rows) as load:
        yield
    assert load.result().get(200, 0) > 0, load.result()


@contextmanager
def ended(kubectl: Kubectl, kind: str, name: str, namespace: str) -> Iterator[None]:
    """The object is gone after the block, also where the test fails: others share the namespace."""
    try:
        yield
    finally:
        kubectl("delete", kind, name, "-n", namespace, "--ignore-not-found")


@pytest.fixture
def at_rest(digits: Service) -> Service:
    eventually(lambda: digits.get()["status"].get("cores") == "0.25", 40, "an idle pod has its smallest size")
    return digits


def allowed(service: Service, milli: int) -> bool:
    """Whether the API server would take this size now; nothing is changed.

    It hears of a LimitRange or a ResourceQuota a little after it has been written.
    """
    try:
        by_hand(service, milli, dry_run=True)
    except AssertionError as error:
        if "forbidden" not in str(error):
            raise
        return False
    return True


def test_a_limit_range_bounds_the_size_and_the_condition_ends_with_it(kubectl: Kubectl, at_rest: Service) -> None:
    digits, quota, before = at_rest, quota_file(at_rest.pod()), identity(at_rest.pod())
    limits = {"limits": [{"type": "Container", "max": {"cpu": "500m"}}]}
    metadata = {"name": "most", "namespace": digits.namespace}
    document = {"apiVersion": "v1", "kind": "LimitRange", "metadata": metadata, "spec": limits}
    kubectl("apply", "-f", "-", document=document)
    with ended(kubectl, "limitrange", "most", digits.namespace):
        eventually(lambda: not allowed(digits, 625), 10, "the API server knows the LimitRange")
        with busy(digits):
            eventually(lambda: millicores(quota) == 500, 5, "the pod gets the largest size that the LimitRange allows")
            eventually(lambda: digits.is_("ResizeBlocked", "True", "LimitRange"), 5, "and the condition says why")
            assert "a LimitRange of the namespace allows 0.5 cores" in digits.condition("ResizeBlocked")["message"]
            assert resizes(kubectl, digits, reason="LimitRange") <= 3
            kubectl("delete", "limitrange", "most", "-n", digits.namespace)
            eventually(lambda: millicores(quota) > 500, 12, "without it, the pod grows under the same load")
            eventually(lambda: digits.is_("ResizeBlocked", "False", "NothingBlocked"), 5, "and nothing is blocked")
    assert ("Warning", "ResizeLimitRange") in digits.events()
    assert identity(digits.pod()) == before


def test_a_quota_on_cpu_bounds_the_size_and_is_named(kubectl: Kubectl, at_rest: Service) -> None:
    digits, quota, where = at_rest, quota_file(at_rest.pod()), ("-n", at_rest.namespace)
    # Of the two, the limit on requests binds. It counts pods that are on their way out, too.
    kubectl("create", "quota", "team", "--hard=limits.cpu=100,requests.cpu=625m", *where)
    with ended(kubectl, "quota", "team", digits.namespace):
        eventually(lambda: not allowed(digits, 626), 10, "the API server knows the quota")
        eventually(lambda: allowed(digits, 625), 40, "no other pod counts")
        with busy(digits):
            eventually(lambda: millicores(quota) == 625, 5, "the pod gets what the quota leaves")
            eventually(lambda: digits.is_("ResizeBlocked", "True", "QuotaExceeded"), 5, "and the condition says why")
            assert "ResourceQuota team allows 0.625 cores" in digits.condition("ResizeBlocked")["message"]
            kubectl("delete", "quota", "team", *where)
            eventually(lambda: millicores(quota) > 625, 12, "without it, the pod grows under the same load")
    assert ("Warning", "ResizeQuotaExceeded") in digits.events()
    assert resizes(kubectl, digits, "rejected", "QuotaExceeded") >= 1


@pytest.mark.long
def test_beside_a_sidecar_on_a_full_node_the_largest_size_that_fits_is_found(
    operator_running: None, kubectl: Kubectl, namespace: str
) -> None:
    size = {"cpu": "200m", "memory": "32Mi"}
    helper = {
        "name": "helper",
        "image": BUSYBOX_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["/bin/sleep", "600"],
        "resources": {"requests": size, "limits": size},
    }
    service = Service(kubectl, namespace, "digits")
    service.apply(
        model={"name": "digits", "source": "digits://"},
        slo={"latency": "300ms"},
        cpu={"min": "250m", "max": "1500m", "step": "125m"},
        template={"spec": {"containers": [helper]}},
    )
    service.wait_ready()
    eventually(lambda: service.get()["status"].get("cores") == "0.25", 40, "an idle pod has its smallest size")
    pod, quota = service.pod(), quota_file(service.pod())
    block_node(kubectl, pod["spec"]["nodeName"], namespace, leave_milli=400)
    with busy(service, 25):
        eventually(lambda: millicores(quota) == 625, 5, "the pod gets what the node has beside its side-car")
        eventually(lambda: service.is_("ResizeBlocked", "True", "Deferred"), 5, "and the condition says why")
        message = service.condition("ResizeBlocked")["message"]
        assert f"node {pod['spec']['nodeName']} has room for 0.65 cores of this container now" in message
        assert 1 <= resizes(kubectl, service, "deferred", "Deferred") <= 2
        assert ("Warning", "ResizeDeferred") in service.events()
        kubectl("delete", "pod", "blocker", "-n", namespace, "--timeout=30s")
        eventually(lambda: millicores(quota) > 625, 20, "once the node has room, the pod grows")
    assert identity(service.pod()) == identity(pod)
