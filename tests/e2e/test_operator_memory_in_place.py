"""Memory in place at the real kubelet: the limit follows the batch cap, and the CPU never waits for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from operator_kit import (
    Kubectl,
    Service,
    eventually,
    identity,
    memory_limit_mib,
    millicores,
    quota_file,
    scraped,
)

pytestmark = [pytest.mark.e2e, pytest.mark.torch]


@pytest.fixture
def followed(digits: Service) -> Iterator[Service]:
    """The shared service, with its memory limit following the batch cap: 1 GiB and 16 MiB for each row of a batch."""
    eventually(lambda: digits.get()["status"].get("cores") == "0.25", 40, "an idle pod has its smallest size")
    digits.patch(memory={"inPlace": True})
    yield digits
    digits.patch(memory={"inPlace": False}, planner={"policy": "projected"}, cpu={"min": "250m"})
    pod = digits.pod()
    eventually(lambda: memory_limit_mib(pod) == 1024 + 8 * 16, 20, "the pod has the memory that it started with")


def set_memory(service: Service, mib: int) -> None:
    memory = {"memory": f"{mib}Mi"}
    patch = {"spec": {"containers": [{"name": "server", "resources": {"requests": memory, "limits": memory}}]}}
    pod = service.pod()["metadata"]["name"]
    service.kubectl("patch", "pod", pod, "-n", service.namespace, "--subresource=resize", "-p", json.dumps(patch))


def quality(pod: dict[str, Any]) -> str:
    return str(pod["status"]["qosClass"])


def test_memory_follows_the_batch_cap_down_and_up(followed: Service, kubectl: Kubectl) -> None:
    pod = followed.pod()
    assert memory_limit_mib(pod) == 1024 + 8 * 16
    # The paper's planner wants batches of 1 where nothing arrives, the projection those of the spec.
    followed.patch(planner={"policy": "paper"})
    eventually(lambda: memory_limit_mib(pod) == 1024 + 16, 30, "the limit has followed the cap down")
    assert 'sponge_operator_memory_resize_total{kind="shrink"}' in scraped(kubectl)
    followed.patch(planner={"policy": "projected"})
    eventually(lambda: memory_limit_mib(pod) == 1024 + 8 * 16, 10, "the limit has followed the cap up")
    eventually(lambda: followed.get()["status"].get("batch") == 8, 10, "and the cap has grown after it")
    after = followed.pod()
    assert identity(after) == identity(pod)
    assert quality(after) == "Guaranteed"


def test_a_stuck_memory_resize_holds_no_cpu_back(followed: Service) -> None:
    pod = followed.pod()
    quota = quota_file(pod)
    followed.kubectl("annotate", "sps", followed.name, "-n", followed.namespace, "serving.sponge.dev/paused=true")
    eventually(lambda: followed.is_("Planning", "False", "Paused"), 10, "the pause is seen")
    set_memory(followed, 64)  # below what is in use: the kubelet does not carry it out

    def refused() -> bool:
        conditions = followed.pod()["status"]["conditions"]
        return any(c["type"] == "PodResizeInProgress" and c.get("reason") == "Error" for c in conditions)

    eventually(refused, 10, "the kubelet says that it cannot")
    followed.patch(cpu={"min": "1"})
    followed.kubectl("annotate", "sps", followed.name, "-n", followed.namespace, "serving.sponge.dev/paused-")
    eventually(lambda: millicores(quota) == 1000, 5, "the CPU grows all the same")
    assert followed.condition("ResizeBlocked").get("reason") != "ResizeError"
    eventually(lambda: not refused(), 10, "the memory resize was taken back")
    assert memory_limit_mib(pod) >= 1024
    assert identity(followed.pod()) == identity(pod)
