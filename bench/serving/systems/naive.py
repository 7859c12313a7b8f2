"""FastAPI around the model, as in many a tutorial: no deadlines; a bounded queue and small batches at best."""

from __future__ import annotations

import math
from pathlib import Path

from bench.serving.systems.interface import Knobs, Launch, System, Wire
from bench.serving.systems.scripts import post_tensor, run_script
from bench.serving.workloads import BERT, RESNET18

__all__ = ["Naive"]

TRIES = {
    RESNET18.name: [(queue, 1) for queue in (8, 16, 4, 32)],
    BERT.name: [(8, 1), (4, 4), (3, 1), (8, 4)],
}
"""Most requests that wait, and of a batch; each is tried with both shapes of lanes and threads."""


class Naive(System):
    """Knobs: `lanes` of `threads` each, `queue` requests at most waiting (0: any), `max_batch` of a lane."""

    name = "fastapi"
    defaults: Knobs = {"lanes": 1, "threads": 2, "queue": 0, "max_batch": 1}  # noqa: RUF012 - a mapping that nobody writes
    ready_path = "/ready"

    def candidates(self, cores: float) -> list[Knobs]:
        whole = math.ceil(cores)
        shapes = ((whole, 1), (1, whole))
        return [
            {"lanes": lanes, "threads": threads, "queue": queue, "max_batch": batch}
            for queue, batch in TRIES[self.workload.name]
            for lanes, threads in shapes
        ]

    def launch(self, python: Path, port: int, knobs: Knobs, cores: float) -> Launch:
        return run_script(python, "naive", port, knobs)

    def request(self, body: bytes, slo_s: float, knobs: Knobs) -> Wire:
        return post_tensor("/infer", body)
