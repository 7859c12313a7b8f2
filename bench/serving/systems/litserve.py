"""LitServe: FastAPI in front, worker processes that take batches from one queue. A timeout for all; no deadlines."""

from __future__ import annotations

from pathlib import Path

from bench.serving.systems.interface import Knobs, Launch, System, Wire
from bench.serving.systems.scripts import post_tensor, run_script

__all__ = ["LitServe"]


class LitServe(System):
    """Knobs.

    `processes` of `threads` each; `max_batch` and `wait_ms` of a batch; `timeout_ms` (504 to what waited longer);
    `capacity` (requests inside at most; 429 beyond; a middleware; 0: any); `fast_queue` (1: answers by ZeroMQ).
    """

    name = "litserve"
    packages = ("litserve==0.2.19",)
    ready_path = "/health"
    defaults: Knobs = {  # noqa: RUF012 - a mapping that nobody writes
        "processes": 1,
        "threads": 2,
        "max_batch": 1,
        "wait_ms": 0,
        "timeout_ms": 30_000,
        "capacity": 0,
        "fast_queue": 0,
    }

    def candidates(self, cores: float) -> list[Knobs]:
        tries = [
            (1, 2, 8, 5, 1000, 16),
            (1, 2, 4, 5, 1000, 8),
            (1, 2, 8, 5, 1000, 12),
            (1, 2, 16, 5, 1000, 24),
            (1, 2, 8, 1, 150, 16),
            (2, 1, 4, 5, 1000, 8),
            (1, 2, 8, 5, 130, 0),
            (2, 1, 2, 1, 1000, 6),
        ]
        names = ("processes", "threads", "max_batch", "wait_ms", "timeout_ms", "capacity")
        return [{**dict(zip(names, values, strict=True)), "fast_queue": 1} for values in tries]

    def launch(self, python: Path, port: int, knobs: Knobs, cores: float) -> Launch:
        return run_script(python, "litserve", port, knobs)

    def request(self, body: bytes, slo_s: float, knobs: Knobs) -> Wire:
        return post_tensor("/predict", body)
