"""The model behind Mosec: raw bytes in and out, one stage of worker processes. Runs in Mosec's own environment.

Mosec reads `--port`, `--capacity` and `--timeout` from the same command line, in the worker processes too.
"""

from __future__ import annotations

from mosec import Server, Worker

from bench.serving.model import load_model
from bench.serving.peers.options import options

KNOBS = options(__doc__, "processes", "threads", "max_batch", "wait_ms")


class Served(Worker):
    """One process's copy of the model."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        self._model = load_model(KNOBS.threads)

    def deserialize(self, data: bytes) -> bytes:
        """The body as it came: the tensor is made once for the whole batch."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """Already bytes."""
        return data

    def forward(self, data: bytes | list[bytes]) -> bytes | list[bytes]:
        """A list where Mosec batches, a single body where it does not."""
        return self._model.infer(data) if isinstance(data, list) else self._model.infer([data])[0]


def main() -> None:
    """Serves until killed."""
    server = Server()
    server.append_worker(Served, num=KNOBS.processes, max_batch_size=KNOBS.max_batch, max_wait_time=KNOBS.wait_ms)
    server.run()


if __name__ == "__main__":
    main()
