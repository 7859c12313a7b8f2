"""What others do to the objects of a service, and what `kubectl get sps` says of it, in the real cluster."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from operator_kit import Kubectl, Service, eventually, identity, millicores, quota_file, scraped

from sponge_cluster import BUSYBOX_IMAGE

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

SPEC: dict[str, Any] = {
    "model": {"name": "digits", "source": "digits://"},
    "slo": {"latency": "300ms"},
    "cpu": {"min": "250m", "max": "1500m", "step": "125m"},
}
NOWHERE = {"spec": {"nodeSelector": {"nowhere": "true"}}}


def service(kubectl: Kubectl, namespace: str, name: str, **spec: Any) -> Service:
    made = Service(kubectl, namespace, name)
    made.apply(**{**SPEC, **spec})
    return made


def have(quotas: list[Path], milli: int) -> bool:
    return all(millicores(quota) == milli for quota in quotas)


def test_an_autoscaler_beside_us_stops_resizes_until_it_goes(kubectl: Kubectl, digits: Service) -> None:
    quota = quota_file(digits.pod())
    eventually(lambda: millicores(quota) == 250, 40, "an idle pod has its smallest size")
    kubectl("autoscale", "deployment", "digits", "-n", digits.namespace, "--min=1", "--max=1", "--cpu=50%")
    eventually(lambda: digits.is_("Conflict", "True", "OtherAutoscaler"), 3, "the HPA is seen by the watch")
    eventually(lambda: ("Warning", "Conflict") in digits.events(), 5, "and told by an event")
    digits.patch(cpu={"min": "500m"})
    eventually(lambda: digits.is_("Planning", "False", "Conflict"), 3, "nothing is planned")
    eventually(lambda: digits.get()["status"]["lastDecision"]["to"] == "0.5", 10, "the decision is reported")
    assert millicores(quota) == 250
    kubectl("delete", "hpa", "digits", "-n", digits.namespace)
    eventually(lambda: digits.is_("Conflict", "False", "NoConflict"), 3, "the HPA has gone")
    eventually(lambda: millicores(quota) == 500, 10, "what was decided is done")
    digits.patch(cpu={"min": "250m"})
    eventually(lambda: millicores(quota) == 250, 20, "the pod shrinks again")


def test_an_image_that_cannot_be_pulled(kubectl: Kubectl, digits: Service) -> None:
    pod = digits.pod()
    digits.patch(template={"spec": {"containers": [{"name": "server", "image": "nonsense:1"}]}})

    def told() -> bool:
        ready = digits.condition("Ready")
        return ready["status"] == "False" and "Image" in ready["reason"]

    eventually(told, 15, "the image is named as the reason")
    table = kubectl("get", "sps", "digits", "-n", digits.namespace)
    assert digits.condition("Ready")["reason"] in table
    assert "1/1" in table, "the pod from before serves on"
    assert digits.is_("Available", "True", "PodsServe")
    assert digits.is_("Planning", "True", "Auto")
    digits.patch(template=None)
    eventually(lambda: digits.is_("Ready", "True", "PodsReady"), 30, "the image from before is there")
    eventually(lambda: len(digits.pods()) == 1, 30, "the pod without an image goes")
    assert identity(digits.pod()) == identity(pod)


def test_objects_of_others_are_refused_and_survive(kubectl: Kubectl, operator_running: None, namespace: str) -> None:
    kubectl("create", "service", "clusterip", "aa", "--tcp=80:80", "-n", namespace)
    kubectl("create", "configmap", "bb-sponge", "--from-literal=mine=1", "-n", namespace)
    kubectl("create", "deployment", "cc", f"--image={BUSYBOX_IMAGE}", "--replicas=0", "-n", namespace)
    kubectl("create", "secret", "generic", "dd-sponge-control", "--from-literal=password=x", "-n", namespace)
    theirs = {"aa": "Service", "bb": "ConfigMap", "cc": "Deployment", "dd": "Secret"}
    names = {"Service": "aa", "ConfigMap": "bb-sponge", "Deployment": "cc", "Secret": "dd-sponge-control"}

    def foreign(kind: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(kubectl("get", kind, names[kind], "-n", namespace, "-o", "json"))
        found.pop("status", None)
        return found

    before = {kind: foreign(kind) for kind in names}
    for name, kind in theirs.items():
        one = service(kubectl, namespace, name, template=NOWHERE)
        eventually(partial(one.is_, "Ready", "False", "NameTaken"), 10, f"the {kind} is told")
        assert f"{kind} '{names[kind]}'" in one.condition("Ready")["message"]
    kubectl("delete", "service", "aa", "-n", namespace)
    free = Service(kubectl, namespace, "aa")
    eventually(lambda: free.is_("Synced", "True", "Applied"), 40, "a name that is free again is used")
    del before["Service"], names["Service"]
    kubectl("delete", "sps", "--all", "-n", namespace, "--timeout=30s")
    assert {kind: foreign(kind)["metadata"].get("ownerReferences") for kind in names} == dict.fromkeys(names)
    for kind, found in before.items():
        assert foreign(kind)["metadata"]["uid"] == found["metadata"]["uid"]
        assert foreign(kind).get("data") == found.get("data")


def test_why_no_pod_comes_is_in_the_table(kubectl: Kubectl, operator_running: None, namespace: str) -> None:
    lonely = service(kubectl, namespace, "lonely", template=NOWHERE)
    eventually(lambda: lonely.is_("Ready", "False", "Unschedulable"), 10, "the scheduler's reason is told")
    kubectl("create", "quota", "none", "--hard=pods=1", "-n", namespace)
    refused = service(kubectl, namespace, "refused", template=NOWHERE)
    eventually(lambda: refused.is_("Ready", "False", "FailedCreate"), 10, "the quota's reason is told")
    assert "exceeded quota: none" in refused.condition("Ready")["message"]
    table = kubectl("get", "sps", "-n", namespace)
    assert "Unschedulable" in table
    assert "FailedCreate" in table
    assert ("Warning", "NotReady") in refused.events()
    assert ("Normal", "Applied") in refused.events()
    kubectl("delete", "sps", "--all", "-n", namespace, "--timeout=30s")


def test_a_pod_without_its_label_is_nobodys(kubectl: Kubectl, digits: Service) -> None:
    released = digits.pod()
    name = released["metadata"]["name"]
    kubectl("label", "pod", name, "-n", digits.namespace, "serving.sponge.dev/service-")
    try:
        eventually(lambda: {p["metadata"]["name"] for p in digits.pods()} - {name}, 10, "another pod takes its place")
        assert json.loads(kubectl("get", "pod", name, "-n", digits.namespace, "-o", "json"))["metadata"]["uid"]
        new = digits.pod()["metadata"]["name"]
        eventually(lambda: [p["name"] for p in digits.get()["status"]["pods"]] == [new], 10, "the status forgets it")
        digits.wait_ready()
        quota = eventually(lambda: digits.pod()["status"].get("containerStatuses") and quota_file(digits.pod()), 10, "")
        eventually(lambda: millicores(quota) == 250, 40, "the other pod is driven")
    finally:
        kubectl("delete", "pod", name, "-n", digits.namespace, "--grace-period=0", "--force", "--wait=false")


@pytest.mark.long
def test_fewer_pods_than_wanted_are_driven(kubectl: Kubectl, operator_running: None, namespace: str) -> None:
    kubectl("create", "quota", "two", "--hard=pods=2", "-n", namespace)
    cpu = {**SPEC["cpu"], "startup": "500m"}
    three = service(kubectl, namespace, "three", cpu=cpu, replicas={"min": 3, "max": 3})
    eventually(lambda: three.get().get("status", {}).get("serving") == "2/3", 120, "two pods serve")
    assert three.is_("Ready", "False", "FailedCreate")
    assert "exceeded quota: two" in three.condition("Ready")["message"]
    assert ("Warning", "NotReady") in three.events()
    assert scraped(kubectl).count(f'sponge_operator_server_reachable{{namespace="{namespace}"') == 2
    quotas = [quota_file(pod) for pod in three.pods()]
    for milli in (625, 250, 500):
        three.patch(cpu={"min": f"{milli}m"})
        eventually(partial(have, quotas, milli), 5, "both pods follow")
    kubectl("delete", "sps", "--all", "-n", namespace, "--timeout=60s")
