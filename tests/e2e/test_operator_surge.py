"""A surge beyond what one pod can take: a second pod follows, and goes again without losing a request."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections import Counter
from threading import Event
from typing import Any

import aiohttp
import numpy as np
import pytest
from operator_kit import Kubectl, Service, beside, eventually, scraped
from PIL import Image

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.usefixtures("operator_running")]

CORES, SMALLEST = 0.5, 0.125


class Client:
    """Sends images to the service's own address, each on a new connection, so that kube-proxy spreads them."""

    def __init__(self, kubectl: Kubectl, service: Service, slo_ms: float, rate: float) -> None:
        named = ("service", service.name, "-n", service.namespace)
        address = kubectl("get", *named, "-o", "jsonpath={.spec.clusterIP}")
        self._url = f"http://{address}:8080/v2/models/{service.name}/infer"
        self._headers = {"Content-Type": "image/jpeg", "x-sponge-slo-ms": str(slo_ms), "Connection": "close"}
        self._stopped = Event()
        self.rate = rate
        self.outcomes: list[tuple[float, str]] = []

    def since(self, began: float) -> Counter[str]:
        """How often which outcome came since then: an HTTP status, or what went wrong with the connection."""
        return Counter(outcome for at, outcome in self.outcomes if at >= began)

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(1).integers(0, 255, (224, 224, 3), dtype=np.uint8)).save(buffer, "JPEG")
        sent = set()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:
            while not self._stopped.is_set():
                task = asyncio.create_task(self._one(session, buffer.getvalue()))
                sent.add(task)
                task.add_done_callback(sent.discard)
                await asyncio.sleep(1 / self.rate)
            await asyncio.gather(*sent)

    async def _one(self, session: aiohttp.ClientSession, data: bytes) -> None:
        began = time.monotonic()
        try:
            async with session.post(self._url, data=data, headers=self._headers) as answer:
                await answer.read()
                outcome = str(answer.status)
        except (aiohttp.ClientError, OSError) as error:
            outcome = type(error).__name__
        self.outcomes.append((began, outcome))


def replicas(service: Service) -> int:
    found = service.kubectl("get", "deployment", service.name, "-n", service.namespace, "-o", "json")
    return int(json.loads(found)["spec"]["replicas"])


def scaling(service: Service) -> dict[str, Any]:
    return dict(service.get().get("status", {}).get("scaling", {}))


def test_a_surge_beyond_one_pod_starts_another_which_goes_again_without_a_lost_request(
    kubectl: Kubectl, namespace: str
) -> None:
    service = Service(kubectl, namespace, "surge")
    service.apply(
        model={"name": "surge", "source": "torchvision://resnet18?weights=none"},
        slo={"latency": "2s"},
        batch={"max": 2},
        cpu={"min": f"{SMALLEST}", "max": f"{CORES}", "step": "125m", "startup": f"{CORES}"},
        replicas={"min": 1, "max": 2},
    )
    service.wait_ready(240)
    eventually(lambda: service.is_("Scaling", "True", "Settled"), 10, "the load is known")
    client = Client(kubectl, service, slo_ms=2000, rate=4.0)
    with beside(client.run):
        try:
            time.sleep(8.0)
            assert replicas(service) == 1, "one pod serves this"
            # Twice what one pod can do, on whatever machine this is.
            client.rate *= 2 * CORES / float(scaling(service)["load"])
            eventually(lambda: replicas(service) == 2, 40, "the load asks for another pod")
            eventually(lambda: scaling(service).get("serving") == 2, 90, "and it serves")
            client.rate = 2.0
            time.sleep(3.0)  # what the surge has left
            calm = time.monotonic()
            eventually(lambda: replicas(service) == 1, 120, "one of them can be spared")
            eventually(lambda: len(service.pods()) == 1, 20, "and goes")
            time.sleep(8.0)  # its last requests, and others while it drains
        finally:
            client.stop()
    assert set(client.since(calm)) == {"200"}, "no request was lost"
    told = service.events()
    assert ("Normal", "ScaledOut") in told
    assert ("Normal", "ScaledIn") in told
    assert 'sponge_operator_scalings_total{direction="in"' in scraped(kubectl)
