"""The main job on a real kubelet: requests by a stock client, cores that follow, threads that follow the cores."""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import tritonclient.http as triton
from load_kit import rate_of, send
from operator_kit import Kubectl, Service, eventually, identity, millicores, quota_file
from sklearn.datasets import load_digits
from tritonclient.utils import InferenceServerException

from sponge_core.control_api import StateSnapshot
from sponge_core.cpu_sharing import thread_budget

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.usefixtures("operator_running")]

SENDERS = 10
LOAD_S = 12.0
REFUSALS = ("503", "504")


@dataclass(frozen=True)
class Sample:
    """The kernel's quota just before and just after the server was asked, and what the server said between."""

    before_milli: int
    state: StateSnapshot
    after_milli: int


class Control:
    """The control port of a pod, with the token from its Secret."""

    def __init__(self, kubectl: Kubectl, namespace: str, service: str, address: str) -> None:
        secret = json.loads(kubectl("get", "secret", f"{service}-sponge-control", "-n", namespace, "-o", "json"))
        token = base64.b64decode(secret["data"]["token"]).decode()
        self._request = urllib.request.Request(
            f"http://{address}:9090/control/v1/state", headers={"Authorization": f"Bearer {token}"}
        )

    def state(self) -> StateSnapshot:
        with urllib.request.urlopen(self._request, timeout=10) as answer:
            return StateSnapshot.model_validate_json(answer.read())


def send_until(end: float, address: str, slo_ms: int) -> dict[str, int]:
    """One after the other; returns how many were answered and how many refused with a reason."""
    counts = {"answered": 0, "refused": 0}
    image = np.random.default_rng(1).standard_normal((1, 3, 224, 224), dtype=np.float32)
    with triton.InferenceServerClient(f"{address}:8080", connection_timeout=30, network_timeout=30) as client:
        metadata = client.get_model_metadata("resnet18")
        tensor = triton.InferInput(metadata["inputs"][0]["name"], list(image.shape), "FP32")
        tensor.set_data_from_numpy(image, binary_data=True)
        while time.monotonic() < end:
            try:
                answer = client.infer("resnet18", [tensor], headers={"x-sponge-slo-ms": str(slo_ms)})
                assert answer.as_numpy(metadata["outputs"][0]["name"]).shape == (1, 1000)
                counts["answered"] += 1
            except InferenceServerException as refusal:
                if not any(code in str(refusal.status()) for code in REFUSALS):
                    raise
                counts["refused"] += 1
    return counts


def test_real_images_are_recognised_through_the_cluster(digits: Service) -> None:
    known = load_digits()
    images, labels = known.images[:200].astype(np.float32), known.target[:200]
    right = 0
    with triton.InferenceServerClient(f"{digits.pod()['status']['podIP']}:8080", network_timeout=30) as client:
        metadata = client.get_model_metadata("digits")
        output = metadata["outputs"][0]["name"]
        for image, label in zip(images, labels, strict=True):
            data = image.reshape([1, *(abs(n) for n in metadata["inputs"][0]["shape"][1:])])
            tensor = triton.InferInput(metadata["inputs"][0]["name"], list(data.shape), "FP32")
            tensor.set_data_from_numpy(data)
            scores = client.infer("digits", [tensor], headers={"x-sponge-slo-ms": "2000"}).as_numpy(output)
            right += int(scores.argmax() == label)
    assert right >= 190


@pytest.fixture(scope="module")
def resnet18(operator_running: None, kubectl: Kubectl, shared_namespace: str) -> Iterator[Service]:
    """A ready service of a model that a core runs about ten times a second."""
    service = Service(kubectl, shared_namespace, "resnet18")
    service.apply(
        model={"name": "resnet18", "source": "torchvision://resnet18?weights=none"},
        slo={"latency": "600ms", "target": 90},
        batch={"max": 2},
        cpu={"min": "250m", "max": "1500m", "step": "125m"},
    )
    service.wait_ready()
    yield service
    kubectl("delete", "sps,deployment", "resnet18", "-n", shared_namespace, "--ignore-not-found", "--wait=false")
    # Other tests need its cores.
    pods = ("pod", "-l", "serving.sponge.dev/service=resnet18", "-n", shared_namespace)
    kubectl("wait", "--for=delete", *pods, "--timeout=60s")


def test_cores_follow_the_load_in_place_and_threads_follow_the_cores(kubectl: Kubectl, resnet18: Service) -> None:
    pod = resnet18.pod()
    address = pod["status"]["podIP"]
    first, quota = identity(pod), quota_file(pod)
    control = Control(kubectl, resnet18.namespace, "resnet18", address)
    eventually(lambda: millicores(quota) == 250, 20, "an idle pod shrinks to cpu.min")
    counted_before = sum(control.state().outcomes.values())

    # Ten clients that each wait for their answer ask more of a tight deadline than one core can give.
    samples: list[Sample] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.05):
            before = millicores(quota)
            state = control.state()
            samples.append(Sample(before, state, millicores(quota)))

    with ThreadPoolExecutor(SENDERS + 1) as pool:
        sampling = pool.submit(sample)
        end = time.monotonic() + LOAD_S
        sent = [pool.submit(send_until, end, address, 300) for _ in range(SENDERS)]
        counts = [future.result() for future in sent]
        done.set()
        sampling.result()

    # Every request came back with an answer or a reason, and the server's books say the same.
    total = sum(count["answered"] + count["refused"] for count in counts)
    assert sum(count["answered"] for count in counts) > 50
    assert sum(control.state().outcomes.values()) - counted_before == total
    assert control.state().outcomes["error"] == 0

    # The kernel's quota went up and with it the threads; never were there more of those than the quota has room for.
    assert max(s.after_milli for s in samples) > 1000
    assert max(s.state.threads_running for s in samples) == 2
    for s in samples:
        assert s.state.threads_running <= thread_budget(max(s.before_milli, s.after_milli) / 1000), s

    # Without load it shrinks again, down to one thread, in the same container.
    eventually(lambda: millicores(quota) == 250, 30, "the pod shrinks when the load is gone")
    eventually(lambda: control.state().thread_budget == 1, 5, "and so does its thread budget")
    assert identity(resnet18.pod()) == first
    assert first[2] == 0


def test_a_service_follows_its_load_in_place(kubectl: Kubectl, resnet18: Service) -> None:
    service, namespace = resnet18, resnet18.namespace
    pod = service.pod()
    before, quota = identity(pod), quota_file(pod)
    assert pod["status"]["qosClass"] == "Guaranteed"

    # Idle: the smallest size, in the kernel and in the status.
    eventually(lambda: millicores(quota) == 250, 20, "an idle pod shrinks to cpu.min")
    eventually(lambda: service.get()["status"].get("cores") == "0.25", 10, "the status follows")

    # Under load it grows while the load lasts, without a restart.
    largest = 250
    counts: dict[int, int] = {}
    rate = round(rate_of(service, pod, 0.6))  # more than twice what its smallest size carries
    load = threading.Thread(target=lambda: counts.update(send(pod, "resnet18", rate, seconds=10, slo_ms=600)))
    load.start()
    while load.is_alive():
        largest = max(largest, millicores(quota))
        load.join(0.02)
    assert largest > 250
    assert sum(counts.values()) == 10 * rate
    assert counts.get(200, 0) >= 5 * rate
    eventually(lambda: service.get()["status"].get("attainment"), 10, "the status says how many were in time")
    decision = service.get()["status"]["lastDecision"]
    assert decision["applied"]

    # Idle again: back to the smallest size, and still the same container.
    eventually(lambda: millicores(quota) == 250, 30, "the pod shrinks when the load is gone")
    assert identity(service.pod()) == before
    assert before[2] == 0
    row = kubectl("get", "sps", "resnet18", "-n", namespace).splitlines()
    assert " ".join(row[0].split()) == "NAME MODEL SLO CORES BATCH REPLICAS ATTAINED P99 MODE READY REASON AGE"
    assert ("Normal", "Ready") in service.events()

    # Deleted and its pods kept: they have the size back that they started with.
    kubectl("delete", "sps", "resnet18", "-n", namespace, "--cascade=orphan", "--timeout=30s")
    eventually(lambda: millicores(quota) == 1000, 10, "the original size is restored")
    assert identity(service.pod()) == before
