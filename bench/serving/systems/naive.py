"""FastAPI around torch, as in many a tutorial: one model, no batches, no deadlines; a bounded queue at best."""

from __future__ import annotations

import math
from pathlib import Path

from bench.serving.systems.interface import REPOSITORY, Knobs, Launch, System, Wire

__all__ = ["Naive"]

SCRIPT = REPOSITORY / "bench" / "serving" / "peers" / "naive.py"


class Naive(System):
    """Knobs: `lanes` inference threads with `threads` of torch each, `queue` requests at most waiting (0: any)."""

    name = "fastapi"
    defaults: Knobs = {"lanes": 1, "threads": 2, "queue": 0}  # noqa: RUF012 - a mapping that nobody writes
    ready_path = "/ready"

    def candidates(self, cores: float) -> list[Knobs]:
        whole = math.ceil(cores)
        shapes = ((1, whole), (whole, 1))
        return [{"lanes": n, "threads": k, "queue": queue} for queue in (8, 16, 4, 32) for n, k in shapes]

    def launch(self, python: Path, port: int, knobs: Knobs, cores: float) -> Launch:
        options = [f"--{name}={knobs[name]}" for name in ("lanes", "threads", "queue")]
        return Launch((str(python), str(SCRIPT), f"--port={port}", *options))

    def request(self, body: bytes, slo_s: float, knobs: Knobs) -> Wire:
        return Wire("POST", "/infer", {"Content-Type": "application/octet-stream"}, (body,))
