"""The model behind LitServe: raw bytes in and out, worker processes. Runs in LitServe's own environment.

No postponed annotations here: LitServe hands that of `decode_request` to FastAPI, which is how a body comes in raw.
"""

import signal
from collections.abc import Sequence
from typing import Annotated, Any

import litserve
from fastapi import Body, Response

from bench.serving.model import load_model
from bench.serving.peers.options import options


class Served(litserve.LitAPI):
    """The model in each worker process."""

    def __init__(self, threads: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._threads = threads

    def setup(self, device: str) -> None:
        """Called in the worker process, on the thread that infers."""
        self._model = load_model(self._threads)

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        """The body as it came: the tensor is made once for the whole batch."""
        return request

    def batch(self, inputs: Sequence[bytes]) -> Sequence[bytes]:
        """As `decode_request`."""
        return inputs

    def predict(self, x: bytes | Sequence[bytes]) -> bytes | list[bytes]:
        """A list where LitServe batches, a single body where it does not."""
        return self._model.infer([x])[0] if isinstance(x, bytes) else self._model.infer(x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """A list already."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """Raw float32."""
        return Response(output, media_type="application/octet-stream")


class Capacity:
    """Answers 429 to more requests at once than `most`: a middleware, as LitServe bounds no queue itself."""

    def __init__(self, app: Any, most: int) -> None:
        self._app = app
        self._free = most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI has it."""
        if scope["type"] != "http" or scope["path"] != "/predict":
            await self._app(scope, receive, send)
        elif self._free == 0:
            await Response(status_code=429)(scope, receive, send)
        else:
            self._free -= 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._free += 1


def main() -> None:
    """Serves until killed."""
    knobs = options(__doc__, "processes", "threads", "max_batch", "wait_ms", "timeout_ms", "capacity", "fast_queue")
    api = Served(knobs.threads, max_batch_size=knobs.max_batch, batch_timeout=knobs.wait_ms / 1000)
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=knobs.processes,
        timeout=knobs.timeout_ms / 1000 or False,
        fast_queue=bool(knobs.fast_queue),
        middlewares=[(Capacity, {"most": knobs.capacity})] if knobs.capacity else None,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # LitServe ends its processes on an interrupt alone
    server.run(host="127.0.0.1", port=knobs.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
