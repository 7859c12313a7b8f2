"""The operator's manners in the real cluster: full nodes, other hands, modes, permissions, restarts."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest
from load_kit import send
from operator_kit import (
    Kubectl,
    Service,
    block_node,
    by_hand,
    eventually,
    identity,
    millicores,
    operator_address,
    quota_file,
    scraped,
)

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

ACCOUNT = "system:serviceaccount:sponge-system:sponge-operator"


@pytest.fixture(autouse=True)
def at_rest(digits: Service) -> None:
    eventually(lambda: digits.get()["status"].get("cores") == "0.25", 40, "an idle pod has its smallest size")


def test_a_new_range_moves_the_pod_and_keeps_it(digits: Service) -> None:
    pod = digits.pod()
    digits.patch(cpu={"min": "500m", "max": "1", "step": "250m"})
    quota = quota_file(pod)
    eventually(lambda: millicores(quota) == 500, 10, "the pod grows to the new cpu.min")
    digits.patch(cpu={"min": "250m", "max": "1500m", "step": "125m"})
    eventually(lambda: millicores(quota) == 250, 10, "the pod shrinks to the old cpu.min")
    assert identity(digits.pod()) == identity(pod)


def test_recommend_says_and_changes_nothing(digits: Service) -> None:
    quota = quota_file(digits.pod())
    digits.patch(mode="Recommend")
    eventually(lambda: digits.is_("Planning", "True", "Recommend"), 10, "the mode is taken")
    by_hand(digits, 1000)
    eventually(lambda: millicores(quota) == 1000, 5, "the hand's size is in force")

    def said() -> bool:
        last = digits.get()["status"]["lastDecision"]
        return (last["from"], last["to"], last["applied"]) == ("1", "0.25", False)

    eventually(said, 10, "the recommendation is in the status")
    assert millicores(quota) == 1000
    digits.patch(mode="Auto")
    eventually(lambda: millicores(quota) == 250, 10, "Auto acts on it")


def test_pause_keeps_the_size(digits: Service) -> None:
    quota = quota_file(digits.pod())
    target = ("sps", "digits", "-n", digits.namespace)
    digits.kubectl("annotate", *target, "serving.sponge.dev/paused=true")
    eventually(lambda: digits.is_("Planning", "False", "Paused"), 10, "the pause is seen")
    digits.patch(cpu={"min": "500m"})
    eventually(
        lambda: digits.get()["status"].get("lastDecision", {}).get("to") == "0.5", 10, "the decision is reported"
    )
    assert millicores(quota) == 250
    digits.patch(cpu={"min": "250m"})
    digits.kubectl("annotate", *target, "serving.sponge.dev/paused-")
    eventually(lambda: digits.is_("Planning", "True", "Auto"), 10, "the pause ends")


def test_off_drives_no_pod(digits: Service) -> None:
    quota = quota_file(digits.pod())
    digits.patch(mode="Off")
    eventually(lambda: digits.is_("Planning", "False", "Off"), 10, "the mode is taken")
    assert digits.is_("Ready", "True", "PodsReady")
    by_hand(digits, 500)
    eventually(lambda: millicores(quota) == 500, 5, "the hand's size is in force")
    digits.patch(mode="Auto")
    eventually(lambda: millicores(quota) == 250, 15, "Auto takes the pod over again")


def test_an_idle_pod_is_parked_and_woken(digits: Service) -> None:
    pod, quota = digits.pod(), quota_file(digits.pod())
    digits.patch(cpu={"idle": "50m", "idleAfter": "2s"})
    eventually(lambda: millicores(quota) == 50, 15, "an idle pod is parked")
    assert set(send(pod, "digits", rate=5, seconds=1, slo_ms=2000)) == {200}
    eventually(lambda: millicores(quota) >= 250, 5, "a request wakes it")
    eventually(lambda: millicores(quota) == 50, 20, "and it is parked again")
    digits.patch(cpu={"idle": None, "idleAfter": None})
    eventually(lambda: millicores(quota) == 250, 15, "it is not parked any more")
    assert identity(digits.pod()) == identity(pod)


def test_a_full_node_blocks_a_resize_and_says_so(kubectl: Kubectl, digits: Service) -> None:
    block_node(kubectl, digits.pod()["spec"]["nodeName"], digits.namespace, leave_milli=400)
    pod, quota = digits.pod(), quota_file(digits.pod())
    digits.patch(cpu={"min": "1125m"})
    eventually(lambda: digits.is_("ResizeBlocked", "True", "Deferred"), 10, "the block is a condition")
    eventually(lambda: ("Warning", "ResizeDeferred") in digits.events(), 5, "and an event")

    def taken_back() -> bool:
        limits = digits.pod()["spec"]["containers"][0]["resources"]["limits"]
        return bool(limits["cpu"] == "650m")

    eventually(taken_back, 5, "no deferred resize is left standing, and what the node has is asked for")
    eventually(lambda: millicores(quota) == 650, 5, "though it is less than cpu.min")
    # The range is made possible again: the pod moves though the ceiling still holds.
    digits.patch(cpu={"min": "375m"})
    eventually(lambda: millicores(quota) == 375, 10, "the pod follows it")
    assert identity(digits.pod()) == identity(pod)
    digits.patch(cpu={"min": "250m"})
    kubectl("delete", "pod", "blocker", "-n", digits.namespace, "--timeout=30s")


def test_other_hands_on_the_deployment_are_undone(kubectl: Kubectl, digits: Service) -> None:
    kubectl("scale", "deployment", "digits", "-n", digits.namespace, "--replicas=0")

    def replicas() -> int:
        deployment = json.loads(kubectl("get", "deployment", "digits", "-n", digits.namespace, "-o", "json"))
        return int(deployment["spec"]["replicas"])

    eventually(lambda: replicas() == 1, 10, "the number of pods is what the service says")
    # The new pod starts at its template's size and is driven like the old one.
    digits.wait_ready()
    eventually(lambda: digits.get()["status"].get("cores") == "0.25", 40, "a recreated pod is driven again")


def test_a_missing_profile_is_a_condition(digits: Service) -> None:
    digits.patch(profile={"configMap": {"name": "nowhere"}})
    eventually(lambda: digits.is_("ProfileReady", "False", "ReferenceMissing"), 10, "the reference is checked")
    digits.patch(profile={"configMap": None})
    eventually(lambda: not digits.is_("ProfileReady", "False", "ReferenceMissing"), 10, "and checked again")
    digits.wait_ready()


def test_a_restarted_operator_takes_over(kubectl: Kubectl, digits: Service) -> None:
    pod, quota = digits.pod(), quota_file(digits.pod())
    kubectl("scale", "deployment/sponge-operator", "-n", "sponge-system", "--replicas=0")
    kubectl(
        *("wait", "--for=delete", "pod", "-l", "app.kubernetes.io/name=sponge-operator"),
        *("-n", "sponge-system", "--timeout=60s"),
    )
    eventually(lambda: millicores(quota) == 1000, 5, "an operator that stops for good leaves its startup size")
    by_hand(digits, 750)
    eventually(lambda: millicores(quota) == 750, 5, "nobody is there to object")
    kubectl("scale", "deployment/sponge-operator", "-n", "sponge-system", "--replicas=1")
    eventually(lambda: millicores(quota) == 250, 60, "the new operator drives the pod that it finds")
    assert identity(digits.pod()) == identity(pod)


def test_metrics(kubectl: Kubectl, digits: Service) -> None:
    labels = f'namespace="{digits.namespace}",pod="{digits.pod()["metadata"]["name"]}",service="digits"'
    # The status is written after a resize, the metric at the next look at the pod.
    in_force = f"sponge_operator_actuated_cores{{{labels}}} 0.25"
    eventually(lambda: in_force in scraped(kubectl), 5, "the size in force is a metric")
    text = scraped(kubectl)
    assert f"sponge_operator_desired_cores{{{labels}}} 0.25" in text
    assert f"sponge_operator_refused_cores{{{labels}}} 0.0" in text
    service = f'namespace="{digits.namespace}",outcome="actuated",reason="shrink",service="digits"'
    assert f"sponge_operator_resize_total{{{service}}}" in text
    for name in ("tick_seconds", "plan_seconds", "resize_seconds", "state_age_seconds", "saved_core_seconds_total"):
        assert f"sponge_operator_{name}" in text
    with urllib.request.urlopen(f"http://{operator_address(kubectl)}:9092/healthz", timeout=5) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("verb", "resource", "allowed"),
    [
        ("patch", "pods/resize", True),
        ("watch", "pods", True),
        ("patch", "pods", True),  # the mark of the pod that can be spared
        ("delete", "pods", False),
        ("create", "pods/eviction", False),
        ("create", "pods/exec", False),
        ("delete", "deployments.apps", True),  # of fronts that are not wanted any more
        ("delete", "replicasets.apps", False),
        ("delete", "secrets", False),
        ("list", "secrets", False),
        ("get", "nodes", True),
        ("list", "nodes", False),
        ("delete", "spongeservices.serving.sponge.dev", False),
        ("create", "clusterroles.rbac.authorization.k8s.io", False),
    ],
)
def test_the_operator_may_do_its_work_and_nothing_else(
    cluster_answer: Any, verb: str, resource: str, allowed: bool
) -> None:
    assert cluster_answer(verb, resource) is allowed


@pytest.fixture
def cluster_answer(kubectl: Kubectl) -> Any:
    def ask(verb: str, resource: str) -> bool:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": ACCOUNT, "resourceAttributes": {"namespace": "default", "verb": verb, **named(resource)}},
        }
        answer = json.loads(kubectl("create", "-f", "-", "-o", "json", document=review))
        return bool(answer["status"]["allowed"])

    return ask


def named(resource: str) -> dict[str, str]:
    full, _, subresource = resource.partition("/")
    name, _, group = full.partition(".")
    return {"resource": name, "group": group, "subresource": subresource}
