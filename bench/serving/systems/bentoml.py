"""BentoML: batches by a learned model of their latency; a bound on requests, a timeout and a latency bound for all."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from bench.serving.shared import Outputs
from bench.serving.systems.interface import Knobs, Launch, System, Wire
from bench.serving.systems.scripts import post_tensor

__all__ = ["BentoML"]


class BentoML(System):
    """Knobs.

    `service` (Single: HTTP and model in one, base64 in JSON; Front: raw bytes, the model behind); `processes` of
    `threads` each; `max_batch`; `max_latency_ms` (drops what it foresees to be later; 503); `max_concurrency` (requests
    inside at most; 429 beyond; 0: any); `timeout_ms` (504).
    """

    name = "bentoml"
    packages = ("bentoml==1.4.40",)
    ready_path = "/readyz"
    defaults: Knobs = {  # noqa: RUF012 - a mapping that nobody writes
        "service": "Front",
        "processes": 1,
        "threads": 2,
        "max_batch": 100,
        "max_latency_ms": 60_000,
        "max_concurrency": 0,
        "timeout_ms": 60_000,
    }

    def candidates(self, cores: float) -> list[Knobs]:
        tries = [
            ("Single", 1, 2, 8, 300, 16),
            ("Front", 1, 2, 8, 300, 16),
            ("Single", 2, 1, 4, 300, 12),
            ("Front", 2, 1, 4, 300, 12),
            ("Front", 1, 2, 8, 1000, 10),
            ("Single", 1, 2, 8, 1000, 10),
            ("Single", 1, 2, 16, 300, 24),
            ("Single", 2, 1, 4, 1000, 8),
        ]
        names = ("service", "processes", "threads", "max_batch", "max_latency_ms", "max_concurrency")
        return [{**dict(zip(names, values, strict=True)), "timeout_ms": 1000} for values in tries]

    def launch(self, python: Path, port: int, knobs: Knobs, cores: float) -> Launch:
        service = f"bench.serving.peers.bentoml:{knobs['service']}"
        listen = ("--host", "127.0.0.1", "--port", str(port))
        env = {
            "PEER_KNOBS": json.dumps(dict(knobs)),
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_HOME": "bentoml",
        }
        return Launch((str(python.with_name("bentoml")), "serve", service, *listen), env)

    def request(self, body: bytes, slo_s: float, knobs: Knobs) -> Wire:
        if knobs["service"] == "Front":
            return post_tensor("/infer", body)
        return Wire("POST", "/infer", {"Content-Type": "application/json"}, (_images_json(body),))

    def outputs(self, headers: Mapping[str, str], body: bytes) -> Outputs:
        if headers.get("content-type") == "application/json":
            (text,) = json.loads(body)
            body = b64decode(text)
        outputs: Outputs = np.frombuffer(body, "<f4")
        return outputs


@lru_cache
def _images_json(body: bytes) -> bytes:
    return json.dumps({"images": [b64encode(body).decode()]}).encode()
