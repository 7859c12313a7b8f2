"""The main job on a real kubelet: requests by a stock client, cores that follow, threads that follow the cores."""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import tritonclient.http as triton
from conftest import Kubectl
from operator_kit import Service, eventually, identity, millicores, quota_file
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


def test_cores_follow_the_load_in_place_and_threads_follow_the_cores(kubectl: Kubectl, namespace: str) -> None:
    service = Service(kubectl, namespace, "resnet18")
    service.apply(
        model={"name": "resnet18", "source": "torchvision://resnet18?weights=none"},
        slo={"latency": "600ms", "target": 90},
        cpu={"min": "250m", "max": "1500m", "step": "125m"},
    )
    service.wait_ready()
    pod = service.pod()
    address = pod["status"]["podIP"]
    first, quota = identity(pod), quota_file(pod)
    control = Control(kubectl, namespace, "resnet18", address)
    eventually(lambda: millicores(quota) == 250, 20, "an idle pod shrinks to cpu.min")

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
    assert sum(control.state().outcomes.values()) == total
    assert control.state().outcomes["error"] == 0

    # The kernel's quota went up and with it the threads; never were there more of those than the quota has room for.
    assert max(s.after_milli for s in samples) > 1000
    assert max(s.state.threads_running for s in samples) == 2
    for s in samples:
        assert s.state.threads_running <= thread_budget(max(s.before_milli, s.after_milli) / 1000), s

    # Without load it shrinks again, down to one thread, in the same container.
    eventually(lambda: millicores(quota) == 250, 30, "the pod shrinks when the load is gone")
    eventually(lambda: control.state().thread_budget == 1, 5, "and so does its thread budget")
    assert identity(service.pod()) == first
    assert first[2] == 0


def test_real_images_are_recognised_through_the_cluster(kubectl: Kubectl, namespace: str) -> None:
    service = Service(kubectl, namespace, "digits")
    service.apply(
        model={"name": "digits", "source": "digits://"},
        slo={"latency": "2s"},
        cpu={"min": "250m", "max": "1", "step": "250m"},
    )
    service.wait_ready()
    digits = load_digits()
    images, labels = digits.images[:200].astype(np.float32), digits.target[:200]
    right = 0
    with triton.InferenceServerClient(f"{service.pod()['status']['podIP']}:8080", network_timeout=30) as client:
        metadata = client.get_model_metadata("digits")
        for image, label in zip(images, labels, strict=True):
            data = image.reshape([1, *(abs(n) for n in metadata["inputs"][0]["shape"][1:])])
            tensor = triton.InferInput(metadata["inputs"][0]["name"], list(data.shape), "FP32")
            tensor.set_data_from_numpy(data)
            scores = client.infer("digits", [tensor]).as_numpy(metadata["outputs"][0]["name"])
            right += int(scores.argmax() == label)
    assert right >= 190
