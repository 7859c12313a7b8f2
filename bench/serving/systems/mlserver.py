"""MLServer: FastAPI in front that batches, worker processes behind it. No queue bound, no timeout, no deadlines."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from bench.serving.shared import Outputs
from bench.serving.systems.interface import Knobs, Launch, System, Wire

__all__ = ["MLServer"]


class MLServer(System):
    """Knobs.

    `processes` (parallel workers) of `threads` each; `max_batch` and `wait_ms` of a batch.
    """

    name = "mlserver"
    packages = ("mlserver==1.7.1", "uvloop==0.21.0")
    ready_path = "/v2/health/ready"
    defaults: Knobs = {"processes": 1, "threads": 2, "max_batch": 0, "wait_ms": 0}  # noqa: RUF012 - nobody writes it

    def candidates(self, cores: float) -> list[Knobs]:
        tries = [
            (2, 1, 8, 5),
            (2, 1, 8, 50),
            (1, 2, 8, 50),
            (2, 1, 4, 50),
            (1, 2, 8, 100),
            (2, 1, 4, 100),
            (1, 2, 4, 50),
            (2, 1, 4, 25),
        ]
        return [dict(zip(("processes", "threads", "max_batch", "wait_ms"), values, strict=True)) for values in tries]

    def launch(self, python: Path, port: int, knobs: Knobs, cores: float) -> Launch:
        server = {
            "debug": False,
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": port + 1,
            "metrics_port": port + 2,
            "metrics_endpoint": None,
            "gzip_enabled": False,
            "parallel_workers": knobs["processes"],
        }
        model = {
            "name": self.workload.name,
            "implementation": "bench.serving.peers.mlserver.Served",
            "max_batch_size": knobs["max_batch"],
            "max_batch_time": knobs["wait_ms"] / 1000,
            "parameters": {"extra": {"threads": knobs["threads"]}},
        }
        files = {"settings.json": json.dumps(server), "model-settings.json": json.dumps(model)}
        return Launch((str(python.with_name("mlserver")), "start", "."), files=files)

    def request(self, body: bytes, slo_s: float, knobs: Knobs) -> Wire:
        path = f"/v2/models/{self.workload.name}/infer"
        return Wire("POST", path, {"Content-Type": "application/json"}, (_infer_json(body),))

    def outputs(self, headers: Mapping[str, str], body: bytes) -> Outputs:
        try:
            (text,) = json.loads(body)["outputs"][0]["data"]
            outputs: Outputs = np.frombuffer(b64decode(text), "<f4")
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"no base64 in the first output: {error!r}") from None
        return outputs


@lru_cache
def _infer_json(body: bytes) -> bytes:
    image = {"name": "input", "shape": [1, 1], "datatype": "BYTES", "data": [b64encode(body).decode()]}
    return json.dumps({"inputs": [image]}).encode()
