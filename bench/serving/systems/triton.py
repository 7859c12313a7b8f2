"""Triton: a C++ core that batches, with priorities and a timeout with every request; the model in a Python process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from bench.bert_sizes import LONGEST
from bench.serving.shared import Outputs
from bench.serving.systems.interface import Knobs, Launch, System, Wire
from bench.serving.systems.oip import binary_outputs
from bench.serving.workloads import BERT, DEFAULT, RESNET18, Served
from sponge_client.oip import HEADER_LENGTH

__all__ = ["Triton"]

TOKEN_BYTES = 8
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
input [{{ name: "{input}" data_type: TYPE_{datatype} dims: {dims} }}]
output [{{ name: "output" data_type: TYPE_FP32 dims: [{outputs}] }}]
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

TRIES: dict[str, list[tuple[int, ...]]] = {
    RESNET18.name: [
        (2, 1, 4, 0, 850, 200, 0, 1),
        (1, 2, 4, 0, 850, 120, 0, 1),
        (2, 1, 4, 5, 850, 200, 12, 1),
        (1, 2, 8, 0, 850, 150, 8, 0),
        (2, 1, 4, 5, 850, 150, 4, 1),
        (1, 2, 4, 5, 850, 120, 8, 0),
        (2, 1, 4, 5, 850, 150, 8, 0),
        (2, 1, 4, 5, 850, 150, 0, 0),
    ],
    BERT.name: [
        (2, 1, 1, 0, 2500, 100, 0, 1, 0),
        (2, 1, 4, 0, 2500, 150, 0, 1, 64),
        (1, 2, 1, 0, 2500, 80, 0, 1, 0),
        (2, 1, 1, 0, 2500, 100, 6, 0, 0),
        (2, 1, 4, 1, 2500, 150, 0, 1, 0),
        (2, 1, 1, 0, 2500, 200, 0, 1, 0),
        (2, 1, 4, 0, 2500, 150, 0, 1, 32),
        (2, 1, 8, 5, 2500, 200, 12, 0, 64),
    ],
}


class Triton(System):
    """Knobs.

    `processes` (instances) of `threads` each; `max_batch` and `wait_ms` of a batch; `timeout_ms` in the queue (0: any);
    `margin_ms` (a request's own timeout is its deadline less so much; -1: it has none); `max_queue` (requests that wait
    at most; 503 beyond; 0: any); `priorities` (1: a tight SLO goes first); `fill_to` (the client fills up texts to a
    multiple of so many tokens, as only requests of one shape share a batch; 0: sends them as they are).
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

    def __init__(self, served: Served = DEFAULT) -> None:
        super().__init__(served)
        if self.workload is BERT:
            self.defaults = {**type(self).defaults, "fill_to": 0}

    def candidates(self, cores: float) -> list[Knobs]:
        return [dict(zip(self.defaults, values, strict=True)) for values in TRIES[self.workload.name]]

    def launch(self, python: Path, port: int, knobs: Knobs, cores: float) -> Launch:
        model = self.workload.name
        levels = "priority_levels: 2 default_priority_level: 2" if knobs["priorities"] else ""
        config = CONFIG.format(
            model=model,
            input=self.workload.input,
            datatype=self.workload.datatype,
            dims=list(self.workload.shape),
            outputs=self.workload.outputs,
            delay_us=knobs["wait_ms"] * 1000,
            timeout_us=knobs["timeout_ms"] * 1000,
            override="true" if knobs["margin_ms"] >= 0 else "false",
            priorities=levels,
            **{name: knobs[name] for name in ("processes", "threads", "max_batch", "max_queue")},
        )
        files = {
            f"models/{model}/config.pbtxt": config,
            f"models/{model}/1/model.py": MODEL_SCRIPT,
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
        workload = self.workload
        sent = _filled_up(body, knobs["fill_to"]) if knobs.get("fill_to") else body
        row: dict[str, object] = {
            "name": workload.input,
            "shape": [1, *workload.shape_of(sent)],
            "datatype": workload.datatype,
            "parameters": {"binary_data_size": len(sent)},
        }
        head = json.dumps({"inputs": [row], "parameters": parameters}).encode()
        headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
        return Wire("POST", f"/v2/models/{workload.name}/infer", headers, (head, sent))

    def outputs(self, headers: Mapping[str, str], body: bytes) -> Outputs:
        return binary_outputs(headers, body)


@lru_cache(maxsize=512)
def _filled_up(body: bytes, tokens: int) -> bytes:
    """A text with zeros up to the next multiple of `tokens`, or to the longest that the model takes."""
    size = TOKEN_BYTES * min(tokens * -(-len(body) // (TOKEN_BYTES * tokens)), LONGEST)
    return body.ljust(size, b"\0")
