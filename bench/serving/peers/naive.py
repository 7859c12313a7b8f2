"""A server in fifty lines: FastAPI, some threads and the model. It knows nothing of Sponge."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from asyncio import AbstractEventLoop, Future
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI, Request, Response

from bench.serving.model import Model, load_model
from bench.serving.peers.options import options

Waiting = queue.SimpleQueue[tuple[bytes, "Future[bytes]"]]


def lane(model: Model, waiting: Waiting, most: int, loop: AbstractEventLoop) -> None:
    """Answers what waits, up to `most` requests at once."""
    while True:
        batch = [waiting.get()]
        with contextlib.suppress(queue.Empty):
            while len(batch) < most:
                batch.append(waiting.get_nowait())
        answers = model.infer([body for body, _ in batch])
        for (_, answer), found in zip(batch, answers, strict=True):
            loop.call_soon_threadsafe(give, answer, found)


def give(answer: Future[bytes], found: bytes) -> None:
    """On the event loop. A client that left has cancelled its answer."""
    if not answer.cancelled():
        answer.set_result(found)


def main() -> None:
    """Serves until killed."""
    knobs = options(__doc__, "lanes", "threads", "queue", "max_batch")
    waiting: Waiting = queue.SimpleQueue()
    models = [load_model(knobs.threads) for _ in range(knobs.lanes)]

    @contextlib.asynccontextmanager
    async def lanes(_: FastAPI) -> AsyncIterator[None]:
        for model in models:
            arguments = (model, waiting, knobs.max_batch, asyncio.get_running_loop())
            threading.Thread(target=lane, args=arguments, daemon=True).start()
        yield

    app = FastAPI(lifespan=lanes)
    inside = 0

    @app.get("/ready")
    def ready() -> str:
        return "ok"

    @app.post("/infer")
    async def answer(request: Request) -> Response:
        nonlocal inside
        body = await request.body()
        if knobs.queue and inside >= knobs.queue + knobs.lanes:
            return Response(status_code=503)
        inside += 1
        mine: Future[bytes] = asyncio.get_running_loop().create_future()
        waiting.put((body, mine))
        try:
            return Response(await mine, media_type="application/octet-stream")
        finally:
            inside -= 1

    uvicorn.run(app, host="127.0.0.1", port=knobs.port, log_level="warning")


if __name__ == "__main__":
    main()
