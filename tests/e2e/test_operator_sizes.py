"""Sizes in the real cluster that others set, or that a pod had before: hands, restarts, parking, edits, the end."""

from __future__ import annotations

import json
import statistics
import time

import pytest
from load_kit import send
from operator_kit import (
    PATIENCE,
    Kubectl,
    Service,
    by_hand,
    eventually,
    identity,
    kill_container,
    millicores,
    quota_file,
    server_state,
)

pytestmark = [pytest.mark.e2e, pytest.mark.torch]


@pytest.fixture(autouse=True)
def at_rest(digits: Service) -> None:
    eventually(lambda: digits.get()["status"].get("cores") == "0.25", 40, "an idle pod has its smallest size")


def uses(service: Service, milli: int) -> None:
    """The hand's size is in force, for the kernel and for the server."""
    pod = service.pod()
    by_hand(service, milli)
    eventually(lambda: millicores(quota_file(pod)) == milli, 5, "the hand's size is in force")
    eventually(lambda: server_state(service, pod)["cores_milli"] == milli, 3, "and the server uses it")


def test_in_mode_off_the_server_uses_what_a_hand_gives_it(digits: Service) -> None:
    digits.patch(mode="Off")
    eventually(lambda: digits.is_("Planning", "False", "Off"), 10, "the mode is taken")
    uses(digits, 1000)
    uses(digits, 125)
    assert server_state(digits, digits.pod())["applied_milli"] is None
    digits.patch(mode="Auto")
    eventually(lambda: server_state(digits, digits.pod())["applied_milli"] == 250, 15, "Auto takes it back")


def test_while_paused_the_server_uses_what_a_hand_gives_it(digits: Service) -> None:
    target = ("sps", "digits", "-n", digits.namespace)
    digits.kubectl("annotate", *target, "serving.sponge.dev/paused=true")
    eventually(lambda: digits.is_("Planning", "False", "Paused"), 10, "the pause is seen")
    uses(digits, 750)
    uses(digits, 125)
    digits.kubectl("annotate", *target, "serving.sponge.dev/paused-")
    eventually(lambda: server_state(digits, digits.pod())["applied_milli"] == 250, 10, "the operator takes it back")


@pytest.mark.parametrize("size", [50, pytest.param(250, marks=pytest.mark.long)])
def test_a_container_that_is_killed_while_it_is_small_is_soon_ready_again(digits: Service, size: int) -> None:
    if size == 50:
        digits.patch(cpu={"idle": "50m", "idleAfter": "2s"})
    pod = digits.pod()
    eventually(lambda: millicores(quota_file(pod)) == size, 15, "the pod is small")
    restarts = identity(pod)[2]
    kill_container(pod)

    def startup_size() -> bool:
        limits = digits.pod()["spec"]["containers"][0]["resources"]["limits"]
        return bool(limits["cpu"] == "1")

    eventually(startup_size, 5, "it gets the size that it started with")

    def ready() -> bool:
        status = digits.pod()["status"]["containerStatuses"][0]
        return bool(status["restartCount"] == restarts + 1 and status["ready"])

    eventually(ready, 45, "it is ready again")
    assert ("Normal", "StartupSize") in digits.events()
    digits.patch(cpu={"idle": None, "idleAfter": None})
    eventually(lambda: millicores(quota_file(digits.pod())) == 250, 30, "and it is driven again")


def test_a_new_pod_has_its_boost_until_it_is_ready(kubectl: Kubectl, namespace: str, operator_running: None) -> None:
    service = Service(kubectl, namespace, "boosted")
    service.apply(
        model={"name": "boosted", "source": "digits://"},
        slo={"latency": "300ms"},
        cpu={"min": "125m", "max": "500m", "step": "125m", "startup": "1"},
    )
    service.wait_ready()
    made = json.loads(kubectl("get", "deployment", "boosted", "-n", namespace, "-o", "json"))
    assert made["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "500m"
    assert ("Normal", "StartupSize") in service.events(), "it grew on its node"
    eventually(lambda: millicores(quota_file(service.pod())) == 125, 20, "and shrank once it was ready")


def test_an_edit_is_in_force_at_once(digits: Service) -> None:
    pod, quota = digits.pod(), quota_file(digits.pod())

    def edit(milli: int, within_s: float, **cpu: str) -> None:
        digits.patch(cpu=cpu)
        edited = time.monotonic()
        eventually(lambda: millicores(quota) == milli, within_s, f"the edit {cpu}")
        print(f"{cpu} in force {time.monotonic() - edited:.3f} s after kubectl returned")

    edit(500, 0.3, min="500m")
    edit(1125, 0.3, min="1125m")
    # The smaller maximum holds at once; below it, `planner.lookBack` passes first.
    digits.patch(cpu={"min": "250m", "max": "1"})
    eventually(lambda: millicores(quota) <= 1000, 0.3, "the smaller maximum")
    eventually(lambda: millicores(quota) == 250, 1.5, "and the smaller minimum")
    edit(375, 0.3, min="375m", max="1500m")
    digits.patch(cpu={"min": "250m"})
    assert identity(digits.pod()) == identity(pod)


def test_a_parked_pod_answers_its_first_request_almost_like_a_warm_one(digits: Service) -> None:
    pod, quota = digits.pod(), quota_file(digits.pod())

    def answer_s() -> float:
        began = time.monotonic()
        assert send(pod, "digits", rate=1, seconds=1, slo_ms=2000) == {200: 1}
        return time.monotonic() - began

    warm_s = statistics.median(answer_s() for _ in range(9))
    digits.patch(cpu={"idle": "50m", "idleAfter": "2s"})
    first_s = []
    for _ in range(3):
        eventually(lambda: millicores(quota) == 50, 15, "an idle pod is parked")
        first_s.append(answer_s())
        eventually(lambda: millicores(quota) >= 250, 0.5, "a request wakes it, though it is not urgent")
    print(f"warm {1000 * warm_s:.0f} ms, after parking {[round(1000 * s) for s in first_s]} ms")
    digits.patch(cpu={"idle": None, "idleAfter": None})
    assert statistics.median(first_s) <= PATIENCE * (3 * warm_s + 0.1)


@pytest.mark.long
def test_an_orphan_keeps_serving_at_its_startup_size_and_follows_its_quota(
    kubectl: Kubectl, namespace: str, operator_running: None
) -> None:
    service = Service(kubectl, namespace, "left")
    service.apply(
        model={"name": "digits", "source": "digits://"},
        slo={"latency": "300ms"},
        cpu={"min": "125m", "max": "500m", "step": "125m"},
    )
    service.wait_ready()
    pod = service.pod()
    eventually(lambda: millicores(quota_file(pod)) == 125, 40, "an idle pod has its smallest size")
    kubectl("delete", "sps", "left", "-n", namespace, "--cascade=orphan", "--timeout=30s")
    eventually(lambda: millicores(quota_file(pod)) == 500, 5, "it has its startup size again")
    secret = json.loads(kubectl("get", "secret", "left-sponge-control", "-n", namespace, "-o", "json"))
    assert secret["data"]["token"]
    uses(service, 250)
    uses(service, 750)
    assert send(pod, "digits", rate=5, seconds=1, slo_ms=2000) == {200: 5}
    assert identity(service.pod()) == identity(pod)
