"""A server in thirty lines: FastAPI, a thread pool and torch. Runs in its own environment; knows nothing of Sponge."""

from __future__ import annotations

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor

import torch
import uvicorn
from fastapi import FastAPI, Request, Response

from bench.serving.model import infer, load_model


def main() -> None:
    """Serves until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("port", "lanes", "threads", "queue"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()

    model = load_model(options.threads)
    pool = ThreadPoolExecutor(options.lanes, initializer=torch.set_num_threads, initargs=(options.threads,))
    app = FastAPI()
    inside = 0

    @app.get("/ready")
    def ready() -> str:
        return "ok"

    @app.post("/infer")
    async def answer(request: Request) -> Response:
        nonlocal inside
        body = await request.body()
        if options.queue and inside >= options.queue + options.lanes:
            return Response(status_code=503)
        inside += 1
        try:
            (logits,) = await asyncio.get_running_loop().run_in_executor(pool, infer, model, [body])
        finally:
            inside -= 1
        return Response(logits, media_type="application/octet-stream")

    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
