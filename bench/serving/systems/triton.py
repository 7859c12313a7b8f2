"""Triton: a C++ core that batches, with priorities and a timeout with every request; the model in a Python process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from bench.serving.shared import INPUT_SHAPE, Logits
from bench.serving.systems.interface import Knobs, Launch, System, Wire
from sponge_client.errors import ServerError
from sponge_client.oip import HEADER_LENGTH, decode

__all__ = ["Triton"]

MODEL = "resnet18"
TIGHT_SLO_S = 0.5
"""Below it a request has priority, where priorities are on."""

MODEL_SCRIPT = """
import os, sys
sys.path += os.environ["PYTHONPATH"].split(os.pathsep)  # Triton starts Python in isolated mode
from bench.serving.peers.tritonserver import TritonPythonModel
"""

CONFIG = """
name: "{model}"
backend: "python"
max_batch_size: {max_batch}
input [{{ name: "input" data_type: TYPE_FP32 dims: [3, 224, 224] }}]
output [{{ name: "output" data_type: TYPE_FP32 dims: [1000] }}]
instance_group [{{ count: {processes} kind: KIND_CPU }}]
parameters [{{ key: "threads" value: {{ string_value: "{threads}" }} }}]
dynamic_batching {{
  max_queue_delay_microseconds: {delay_us}
  {priorities}
  default_queue_policy {{
    timeout_action: REJECT
    allow_timeout_override: {override}
    default_timeout_microseconds: {timeout_us}
    max_queue_size: {max_queue}
  }}
}}
"""


class Triton(System):
    """Knobs.

    `processes` (instances) of `threads` each; `max_batch` and `wait_ms` of a batch; `timeout_ms` in the queue (0: any);
    `margin_ms` (a request's own timeout is its deadline less so much; -1: it has none); `max_queue` (requests that wait
    at most; 503 beyond; 0: any); `priorities` (1: a tight SLO goes first).
    """

    name = "triton"
    packages = ("nvidia-pytriton==0.7.0",)
    ready_path = "/v2/health/ready"
    defaults: Knobs = {  # noqa: RUF012 - a mapping that nobody writes
        "processes": 1,
        "threads": 2,
        "max_batch": 4,
        "wait_ms": 0,
        "timeout_ms": 0,
        "margin_ms": -1,
        "max_queue": 0,
        "priorities": 0,
    }

    def candidates(self, cores: float) -> list[Knobs]:
        tries = [
            (2, 1, 4, 0, 850, 200, 0, 1),
            (1, 2, 4, 0, 850, 120, 0, 1),
            (2, 1, 4, 5, 850, 200, 12, 1),
            (1, 2, 8, 0, 850, 150, 8, 0),
            (2, 1, 4, 5, 850, 150, 4, 1),
            (1, 2, 4, 5, 850, 120, 8, 0),
            (2, 1, 4, 5, 850, 150, 8, 0),
            (2, 1, 4, 5, 850, 150, 0, 0),
        ]
        return [dict(zip(self.defaults, values, strict=True)) for values in tries]

    def launch(self, python: Path, port: int, knobs: Knobs, cores: float) -> Launch:
        levels = "priority_levels: 2 default_priority_level: 2" if knobs["priorities"] else ""
        config = CONFIG.format(
            model=MODEL,
            delay_us=knobs["wait_ms"] * 1000,
            timeout_us=knobs["timeout_ms"] * 1000,
            override="true" if knobs["margin_ms"] >= 0 else "false",
            priorities=levels,
            **{name: knobs[name] for name in ("processes", "threads", "max_batch", "max_queue")},
        )
        files = {
            f"models/{MODEL}/config.pbtxt": config,
            f"models/{MODEL}/1/model.py": MODEL_SCRIPT,
        }
        options = ("--model-repository=models", "--http-address=127.0.0.1", f"--http-port={port}")
        quiet = ("--allow-grpc=false", "--allow-metrics=false", "--log-info=false", "--exit-timeout-secs=2")
        return Launch((str(python), "-m", "bench.serving.peers.tritonserver", *options, *quiet), files=files)

    def request(self, body: bytes, slo_s: float, knobs: Knobs) -> Wire:
        parameters: dict[str, object] = {"binary_data_output": True}
        if knobs["margin_ms"] >= 0:
            parameters["timeout"] = max(1000, round(slo_s * 1e6) - knobs["margin_ms"] * 1000)
        if knobs["priorities"]:
            parameters["priority"] = 1 if slo_s < TIGHT_SLO_S else 2
        size = {"binary_data_size": len(body)}
        image = {"name": "input", "shape": [1, *INPUT_SHAPE], "datatype": "FP32", "parameters": size}
        head = json.dumps({"inputs": [image], "parameters": parameters}).encode()
        headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
        return Wire("POST", f"/v2/models/{MODEL}/infer", headers, (head, body))

    def logits(self, headers: Mapping[str, str], body: bytes) -> Logits:
        try:
            logits: Logits = decode(headers, body)["output"].reshape(-1)
        except (ServerError, KeyError) as error:
            raise ValueError(str(error)) from None
        return logits
