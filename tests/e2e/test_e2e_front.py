"""A service with two pods and two fronts in the cluster: Envoy and picker in each, before the pods' own Service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from certificates_kit import Authority, Pair
from fake_pod import FakePod
from fronts_kit import address, ask, ask_by_tls, fronts, put_pair
from operator_kit import Kubectl, Service, eventually, processes_of, server_state, stopped

pytestmark = pytest.mark.e2e

NAME = "fronted"


@pytest.fixture(scope="module")
def fronted(operator_running: None, kubectl: Kubectl, shared_namespace: str) -> Iterator[Service]:
    service = Service(kubectl, shared_namespace, NAME)
    service.apply(
        model={"name": "digits", "source": "digits://"},
        slo={"latency": "1000ms"},
        cpu={"min": "125m", "max": "250m", "step": "125m", "startup": "250m"},
        replicas={"min": 2, "max": 2},
        front={"replicas": 2},
    )
    service.wait_ready()
    kubectl("rollout", "status", f"deployment/{NAME}-front", "-n", shared_namespace, "--timeout=120s")
    yield service
    kubectl("delete", "sps", NAME, "-n", shared_namespace, "--wait=false")


def front_objects(service: Service) -> dict[str, str]:
    """The uid of each object of the front, by kind."""
    kinds = "deployment,service,serviceaccount,rolebinding,poddisruptionbudget"
    found = json.loads(service.kubectl("get", kinds, "-n", service.namespace, "-o", "json"))["items"]
    named = [each for each in found if each["metadata"]["name"] == f"{NAME}-front"]
    return {each["kind"]: each["metadata"]["uid"] for each in named}


def metric(front: dict[str, Any], name: str) -> float:
    """A sample of the front's picker."""
    with urllib.request.urlopen(f"http://{front['status']['podIP']}:9093/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).rpartition(" ")[2])


def picked(front: dict[str, Any]) -> float:
    """Requests that the front's picker has sent to a pod and that were answered."""
    return metric(front, 'sponge_front_requests_total{ending="answered"}')


def reported(front: dict[str, Any], count: int) -> bool:
    """Whether the front knows the load of so many pods."""
    return metric(front, "sponge_front_pods_reporting") == count


def picks(front: dict[str, Any]) -> bool:
    """Whether the picker chooses the pod of one more request."""
    with contextlib.suppress(OSError):
        before = picked(front)
        return ask(str(front["status"]["podIP"])) == 200 and picked(front) > before
    return False


@contextlib.contextmanager
def further_pod(service: Service, port: int) -> Iterator[None]:
    """Context in which the Service has one more endpoint: this port of the node."""
    nodes = json.loads(service.kubectl("get", "nodes", "-o", "json"))["items"]
    host = next(each["address"] for each in nodes[0]["status"]["addresses"] if each["type"] == "InternalIP")
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{NAME}-further",
            "namespace": service.namespace,
            "labels": {"kubernetes.io/service-name": NAME},
        },
        "addressType": "IPv4",
        "ports": [{"name": name, "port": port, "protocol": "TCP"} for name in ("http", "grpc", "control")],
        "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
    }
    service.kubectl("apply", "-f", "-", document=endpoints)
    try:
        yield
    finally:
        service.kubectl("delete", "endpointslice", f"{NAME}-further", "-n", service.namespace)


def _answers(host: str) -> bool:
    return ask(host) == 200


def served(service: Service) -> list[int]:
    """Requests that each pod has answered, by the pod's name."""
    pods = sorted(service.pods(), key=lambda pod: str(pod["metadata"]["name"]))
    outcomes = [server_state(service, pod)["outcomes"] for pod in pods]
    return [each["in_time"] + each["late"] for each in outcomes]


def _uses_all_pods(service: Service, host: str) -> bool:
    before = served(service)
    for _ in range(8):
        ask(host)
    return all(after > count for after, count in zip(served(service), before, strict=True))


def test_each_front_picks_the_pods_of_its_requests(fronted: Service) -> None:
    pair = fronts(fronted)
    assert len(pair) == 2
    for front in pair:
        host = str(front["status"]["podIP"])
        eventually(partial(_answers, host), 20, "a request through the front is answered")
        before = served(fronted)
        for _ in range(12):
            assert ask(host) == 200
        assert sum(served(fronted)) == sum(before) + 12
        # On a machine that is busy for a moment the picker is late, and the proxy goes on in turn.
        eventually(partial(picks, front), 20, "the picker picks")


def test_while_a_picker_hangs_every_request_is_answered(fronted: Service) -> None:
    front = fronts(fronted)[0]
    host = str(front["status"]["podIP"])
    eventually(partial(_uses_all_pods, fronted, host), 20, "the front knows both pods")
    before = served(fronted)
    with stopped(processes_of(front, "picker")):
        assert [ask(host, slo_ms=20_000) for _ in range(16)] == [200] * 16
    shares = [now - then for now, then in zip(served(fronted), before, strict=True)]
    assert (sum(shares), min(shares) >= 4) == (16, True), "the pods take turns"
    eventually(partial(picks, front), 40, "the picker picks again")


async def test_a_pod_that_errs_costs_less_than_behind_kube_proxy(fronted: Service) -> None:
    count = 150

    def errors(host: str) -> int:
        statuses = [ask(host, slo_ms=20_000) for _ in range(count)]
        assert set(statuses) <= {200, 500}
        return statuses.count(500)

    def compare(port: int) -> tuple[int, int]:
        with further_pod(fronted, port):
            for front in fronts(fronted):
                eventually(partial(reported, front, 3), 20, "the front has heard of the pod")
            plain = address(fronted, NAME)
            eventually(lambda: ask(plain) == 500, 20, "so has kube-proxy")
            return errors(address(fronted, f"{NAME}-front")), errors(plain)

    async with FakePod("failing").running("0.0.0.0") as port:
        by_rule, by_turns = await asyncio.to_thread(compare, port)
    # One in three by turns; each front meets it twice, and once after 1 s, 2 s, 4 s and so on.
    assert 0 < by_rule < by_turns
    for front in fronts(fronted):
        eventually(partial(reported, front, 2), 20, "the front has heard that it is gone")


def test_the_status_has_the_fronts_and_their_objects_come_back_at_once(fronted: Service) -> None:
    eventually(lambda: fronted.is_("FrontReady", "True", "FrontsReady"), 20, "both fronts are told")
    assert fronted.get()["status"]["front"] == {"wanted": 2, "ready": 2}
    before = front_objects(fronted)
    former = {front["metadata"]["uid"] for front in fronts(fronted)}
    deleted = {"Service", "ServiceAccount", "RoleBinding", "PodDisruptionBudget"}
    for kind in deleted:
        fronted.kubectl("delete", kind, f"{NAME}-front", "-n", fronted.namespace)

    def are_anew() -> bool:
        now = front_objects(fronted)
        return now.keys() == before.keys() and {kind for kind in now if now[kind] != before[kind]} == deleted

    # Many times sooner than the next look without news.
    eventually(are_anew, 20, "what was deleted is made anew")
    eventually(
        lambda: not former & {front["metadata"]["uid"] for front in fronts(fronted)},
        60,
        "pods whose account is gone are replaced",
    )
    fronted.kubectl("scale", f"deployment/{NAME}-front", "-n", fronted.namespace, "--replicas=1")
    eventually(lambda: len(fronts(fronted)) == 2, 20, "so is what was changed")
    eventually(lambda: fronted.is_("FrontReady", "True", "FrontsReady"), 40, "both fronts are told again")


def test_a_front_that_is_killed_takes_the_service_nowhere(fronted: Service) -> None:
    host = address(fronted, f"{NAME}-front")
    eventually(lambda: ask(host) == 200, 20, "the fronts' Service answers")
    victim = fronts(fronted)[0]["metadata"]["name"]
    fronted.kubectl("delete", "pod", victim, "-n", fronted.namespace, "--grace-period=0", "--force", "--wait=false")
    eventually(lambda: [ask(host) for _ in range(5)] == [200] * 5, 20, "the other front answers")
    assert ask(address(fronted, NAME)) == 200
    fronted.kubectl("rollout", "status", f"deployment/{NAME}-front", "-n", fronted.namespace, "--timeout=120s")


def test_a_front_that_is_replaced_loses_no_request(fronted: Service) -> None:
    host = address(fronted, f"{NAME}-front")
    fronted.kubectl("rollout", "restart", f"deployment/{NAME}-front", "-n", fronted.namespace)
    statuses = []
    until = time.monotonic() + 30
    while time.monotonic() < until:
        statuses.append(ask(host))
        time.sleep(0.05)
    assert set(statuses) == {200}
    fronted.kubectl("rollout", "status", f"deployment/{NAME}-front", "-n", fronted.namespace, "--timeout=120s")


def test_a_front_that_is_not_wanted_any_more_is_removed(fronted: Service) -> None:
    fronted.patch(front=None)
    eventually(lambda: not front_objects(fronted), 20, "its objects are deleted")
    eventually(lambda: fronted.is_("FrontReady", "False", "NoFront"), 20, "the status has none")
    assert ask(address(fronted, NAME)) == 200
    assert fronted.is_("Ready", "True", fronted.condition("Ready")["reason"])


def test_a_request_that_finds_no_pod_is_held_until_one_serves(
    operator_running: None, kubectl: Kubectl, namespace: str
) -> None:
    service = Service(kubectl, namespace, "seldom")
    service.apply(
        model={"name": "digits", "source": "digits://"},
        slo={"latency": "1000ms"},
        cpu={"min": "125m", "max": "500m", "step": "125m", "startup": "500m"},
        replicas={"min": 0, "max": 2},
        idle={"removeAfter": "10s"},
        front={"replicas": 1},
    )
    kubectl("wait", "--for=create", "deployment/seldom-front", "-n", namespace, "--timeout=60s")
    kubectl("rollout", "status", "deployment/seldom-front", "-n", namespace, "--timeout=120s")
    host = address(service, "seldom-front")
    eventually(lambda: ask(host, slo_ms=90_000) == 200, 20, "a new service has a pod, which answers through the front")
    eventually(lambda: service.is_("Ready", "True", "ScaledToZero"), 40, "nothing was asked of it for a while")
    label = "serving.sponge.dev/service=seldom"
    # One on its way out still answers.
    eventually(lambda: not kubectl("get", "pods", "-n", namespace, "-l", label, "-o", "name"), 40, "its pod is gone")
    assert ask(host, slo_ms=90_000) == 200
    assert len(service.pods()) == 1


def shown(host: str) -> bytes:
    """The certificate on the front's port."""
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, 8080), timeout=10))


def test_a_front_with_tls_waits_for_its_secret_and_follows_it(
    operator_running: None, kubectl: Kubectl, namespace: str
) -> None:
    ours, theirs = Authority("fronts"), Authority("pods")
    first, second = ours.issue(), ours.issue()
    trust = ours.client()
    trust.check_hostname = False  # by address
    service = Service(kubectl, namespace, "secured")
    put_pair(kubectl, namespace, "pods", theirs.issue(), ca_crt=theirs.pem)
    service.apply(
        model={"name": "digits", "source": "digits://"},
        slo={"latency": "1000ms"},
        cpu={"min": "125m", "max": "250m", "step": "125m", "startup": "250m"},
        replicas={"min": 1, "max": 1},
        tls={"secretName": "pods"},
        front={"replicas": 1, "tls": {"secretName": "edge"}},
    )
    eventually(lambda: service.is_("FrontReady", "False", "SecretMissing"), 20, "the missing Secret is named")
    assert "Secret 'edge' does not exist" in service.condition("FrontReady")["message"]
    service.wait_ready()
    put_pair(kubectl, namespace, "edge", Pair(first.cert, second.key))
    eventually(lambda: service.is_("FrontReady", "False", "SecretInvalid"), 40, "so is one that is no pair")
    put_pair(kubectl, namespace, "edge", first)
    # The kubelet tries a missing Secret, and a container that has failed, again after up to some minutes.
    eventually(lambda: service.is_("FrontReady", "True", "FrontsReady"), 300, "the front is there")
    host = address(service, "secured-front")
    eventually(lambda: ask_by_tls(host, trust) == 200, 20, "it carries requests to a pod with TLS")
    (front,) = fronts(service)
    eventually(partial(reported, front, 1), 20, "its picker hears the pod")
    assert shown(host) == first.der
    assert ask(host) == 0, "plain text"

    statuses = []
    put_pair(kubectl, namespace, "edge", second)
    until = time.monotonic() + 150
    while shown(host) != second.der and time.monotonic() < until:
        statuses.append(ask_by_tls(host, trust))
    assert shown(host) == second.der
    assert set(statuses) <= {200}
    assert [each["metadata"]["uid"] for each in fronts(service)] == [front["metadata"]["uid"]]
