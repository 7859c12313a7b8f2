"""Mosec: a Rust front that batches, Python worker processes behind it. Bounds its queue; knows no deadlines."""

from __future__ import annotations

from pathlib import Path

from bench.serving.systems.interface import Knobs, Launch, System, Wire
from bench.serving.systems.scripts import post_tensor, run_script
from bench.serving.workloads import BERT, RESNET18

__all__ = ["Mosec"]


TRIES = {
    RESNET18.name: [
        (2, 1, 4, 5, 12, 1000),
        (2, 1, 4, 5, 8, 1000),
        (1, 2, 8, 5, 16, 1000),
        (2, 1, 4, 5, 10, 1000),
        (2, 1, 4, 5, 14, 1000),
        (2, 1, 2, 1, 8, 1000),
        (1, 2, 8, 5, 12, 1000),
        (1, 2, 4, 5, 8, 1000),
    ],
    BERT.name: [
        (2, 1, 1, 1, 8, 2000),
        (2, 1, 4, 1, 12, 2000),
        (1, 2, 1, 1, 6, 2000),
        (2, 1, 2, 1, 6, 2000),
        (2, 1, 1, 1, 16, 2000),
        (2, 1, 4, 1, 8, 2000),
        (1, 2, 4, 1, 8, 2000),
        (2, 1, 8, 5, 24, 2000),
    ],
}


class Mosec(System):
    """Knobs.

    `processes` of `threads` each; `max_batch` and `wait_ms` of a batch; `capacity` (requests inside at most; 429
    beyond); `timeout` (ms a request may take; 408 beyond).
    """

    name = "mosec"
    packages = ("mosec==0.9.8",)
    defaults: Knobs = {  # noqa: RUF012 - a mapping that nobody writes
        "processes": 1,
        "threads": 2,
        "max_batch": 1,
        "wait_ms": 10,
        "capacity": 1024,
        "timeout": 3000,
    }

    def candidates(self, cores: float) -> list[Knobs]:
        names = ("processes", "threads", "max_batch", "wait_ms", "capacity", "timeout")
        return [dict(zip(names, values, strict=True)) for values in TRIES[self.workload.name]]

    def launch(self, python: Path, port: int, knobs: Knobs, cores: float) -> Launch:
        return run_script(python, "mosec", port, knobs, {"MOSEC_ADDRESS": "127.0.0.1", "MOSEC_LOG_LEVEL": "warning"})

    def request(self, body: bytes, slo_s: float, knobs: Knobs) -> Wire:
        return post_tensor("/inference", body)
