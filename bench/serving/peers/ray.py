"""The model behind Ray Serve: raw bytes in and out, batches by `serve.batch`. Runs in Ray's own environment."""

from __future__ import annotations

import asyncio
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from bench.serving.model import load_model
from bench.serving.peers.options import options


def deployment(knobs: Any) -> Any:
    """The model as a deployment with these knobs."""

    @serve.deployment(
        num_replicas=knobs.processes,
        max_ongoing_requests=knobs.ongoing,
        max_queued_requests=knobs.queued,
        ray_actor_options={"num_cpus": 0.1},
        graceful_shutdown_timeout_s=1,
    )
    class Served:
        def __init__(self) -> None:
            self._model = load_model(knobs.threads)
            self._pool = ThreadPoolExecutor(1)  # inferring on the replica's own thread would stop its event loop

        @serve.batch(max_batch_size=knobs.max_batch, batch_wait_timeout_s=knobs.wait_ms / 1000)
        async def infer(self, bodies: list[bytes]) -> list[bytes]:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._model.infer, bodies)

        async def __call__(self, request: Request) -> Response:
            if request.method == "GET":
                return Response()  # ready; Ray's own health check answers before the replicas do
            return Response(await self.infer(await request.body()), media_type="application/octet-stream")

    return Served


def main() -> None:
    """Serves until told to end, and takes Ray's own processes along."""
    knobs = options(__doc__, "processes", "threads", "max_batch", "wait_ms", "ongoing", "queued")
    stop = threading.Event()
    ray.init(
        num_cpus=4,  # what Ray believes, so that it starts all; the cgroup decides
        include_dashboard=False,
        object_store_memory=100 * 1024**2,
        _temp_dir=str(Path.cwd()),  # a folder of this run alone, gone with it
    )
    serve.start(
        http_options={"host": "127.0.0.1", "port": knobs.port},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    serve.run(deployment(knobs).bind(), route_prefix="/")
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    stop.wait()
    ray.shutdown()


if __name__ == "__main__":
    main()
