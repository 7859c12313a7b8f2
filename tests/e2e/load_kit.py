"""Load for the operator's tests: what is sent to a pod or a Service, and how much of it is much."""

from __future__ import annotations

import asyncio
import io
import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import aiohttp
import numpy as np
from operator_kit import Kubectl, Service, beside, server_state
from PIL import Image

from sponge_core.control_api import LatencyCoefficients

__all__ = ["Client", "rate_of", "rows_of", "send"]

MOST_ROWS = 1000
"""A little less than a server takes of such small rows."""

MOST_RPS = 150.0
"""As many images as a client sends beside the servers of a small machine."""


def rows_of(service: Service, pod: dict[str, Any], core_s: float) -> int:
    """So many digits take about so many core-seconds on this machine."""
    return min(MOST_ROWS, math.ceil(core_s / _row_core_s(service, pod)))


def rate_of(service: Service, pod: dict[str, Any], cores: float) -> float:
    """So many images a second take about so many cores of this machine."""
    return min(MOST_RPS, cores / _row_core_s(service, pod))


def _row_core_s(service: Service, pod: dict[str, Any]) -> float:
    """What a row costs in full batches, by the server's own latency model."""
    state = server_state(service, pod)
    model, batch = LatencyCoefficients.model_validate(state["profile"]).model(), int(state["batch_cap"])
    return model.latency(batch, 1) / batch


def send(pod: dict[str, Any], model: str, rate: float, seconds: float, slo_ms: float, rows: int = 0) -> dict[int, int]:
    """Sends noise, evenly, straight to the pod; returns how often which HTTP status came.

    Args:
        rows: as so many digits in a tensor; 0: as one JPEG.
    """
    data, headers = _digits(rows) if rows else (_noise(), {"Content-Type": "image/jpeg"})
    url = f"http://{pod['status']['podIP']}:8080/v2/models/{model}/infer"
    headers = headers | {"x-sponge-slo-ms": str(slo_ms)}

    async def run() -> dict[int, int]:
        counts: dict[int, int] = {}

        async def one(session: aiohttp.ClientSession) -> None:
            async with session.post(url, data=data, headers=headers) as answer:
                await answer.read()
                counts[answer.status] = counts.get(answer.status, 0) + 1

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            loop, tasks = asyncio.get_running_loop(), []
            start = loop.time()
            for number in range(round(rate * seconds)):
                await asyncio.sleep(max(0.0, start + number / rate - loop.time()))
                tasks.append(asyncio.create_task(one(session)))
            await asyncio.gather(*tasks)
        return counts

    return asyncio.run(run())


class Client:
    """Sends images to the Service's own address, each on a new connection, so that kube-proxy deals them out.

    Attributes:
        rate: requests per second; may be changed while it sends.
        patience_s: how long a request may take.
        outcomes: when each request was sent, and its HTTP status or what went wrong with the connection.
    """

    def __init__(
        self, kubectl: Kubectl, service: Service, slo_ms: float, rate: float, patience_s: float = 300.0
    ) -> None:
        named = ("service", service.name, "-n", service.namespace)
        address = kubectl("get", *named, "-o", "jsonpath={.spec.clusterIP}")
        self._url = f"http://{address}:8080/v2/models/{service.name}/infer"
        self._headers = {"Content-Type": "image/jpeg", "x-sponge-slo-ms": str(slo_ms), "Connection": "close"}
        self._stopped = Event()
        self.rate, self.patience_s = rate, patience_s
        self.outcomes: list[tuple[float, str]] = []

    def since(self, began: float) -> Counter[str]:
        """How often which outcome came since then."""
        return Counter(outcome for at, outcome in self.outcomes if at >= began)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Sends beside the block; waits for the last answers at its end."""
        self._stopped.clear()
        with beside(asyncio.run, self._run()):
            try:
                yield
            finally:
                self._stopped.set()

    async def _run(self) -> None:
        data, sent = _noise(), set()
        connector, limit = aiohttp.TCPConnector(limit=0, force_close=True), aiohttp.ClientTimeout(self.patience_s)
        async with aiohttp.ClientSession(connector=connector, timeout=limit) as session:
            while not self._stopped.is_set():
                task = asyncio.create_task(self._one(session, data))
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


def _digits(rows: int) -> tuple[bytes, dict[str, str]]:
    """A request of so many rows in binary form, and its headers."""
    size = {"binary_data_size": rows * 64 * 4}
    tensor = {"name": "input", "datatype": "FP32", "shape": [rows, 1, 8, 8], "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    pixels = np.random.default_rng(1).random((rows, 64), np.float32)
    return head + pixels.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def _noise() -> bytes:
    """An image as JPEG."""
    noise = np.random.default_rng(1).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()
