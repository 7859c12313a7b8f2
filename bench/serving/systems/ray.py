"""Ray Serve: a proxy, a router with a bounded queue, replicas that batch; a timeout with every request."""

from __future__ import annotations

from pathlib import Path

from bench.serving.systems.interface import Knobs, Launch, System, Wire
from bench.serving.systems.scripts import post_tensor, run_script

__all__ = ["RayServe"]


class RayServe(System):
    """Knobs.

    `processes` (replicas) of `threads` each; `max_batch` and `wait_ms` of a batch; `ongoing` (requests in a replica
    at most); `queued` (requests before the replicas at most; 503 beyond; -1: any).
    """

    name = "ray"
    packages = ("ray[serve]==2.60.0",)
    ready_path = "/ready"
    defaults: Knobs = {  # noqa: RUF012 - a mapping that nobody writes
        "processes": 1,
        "threads": 2,
        "max_batch": 10,
        "wait_ms": 10,
        "ongoing": 5,
        "queued": -1,
    }

    def candidates(self, cores: float) -> list[Knobs]:
        tries = [
            (1, 2, 8, 5, 8, 1),
            (1, 2, 8, 5, 16, 1),
            (1, 2, 4, 5, 8, 1),
            (2, 1, 4, 5, 4, 1),
            (2, 1, 4, 5, 8, 1),
            (1, 2, 4, 5, 4, 4),
            (1, 2, 8, 5, 8, 8),
            (1, 2, 2, 1, 4, 1),
        ]
        names = ("processes", "threads", "max_batch", "wait_ms", "ongoing", "queued")
        return [dict(zip(names, values, strict=True)) for values in tries]

    def launch(self, python: Path, port: int, knobs: Knobs, cores: float) -> Launch:
        return run_script(python, "ray", port, knobs, {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"})

    def request(self, body: bytes, slo_s: float, knobs: Knobs) -> Wire:
        return post_tensor("/", body, {"x-request-timeout-seconds": f"{slo_s:.4f}"})
