"""What every protocol does with a request before it is queued: deadline, room in memory, and the body on its way.

The books of requests that never get as far as the queue are kept here, so each is counted once whatever brought it.
Knows no protocol: a REST or a gRPC handler reads the bytes and says how many came.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sponge_server.dataplane import DataPlane, problem_of
from sponge_server.deadlines import BadHeaderError, Due, resolve
from sponge_server.model_handle import ServedModel
from sponge_server.observability.metrics import Metrics
from sponge_server.protocol.oip import InferRequest
from sponge_server.protocol.problems import ProblemError, retry_after
from sponge_server.uploads import BodyMemory, Upload, Uploads

__all__ = ["Body", "ClientLeftError", "Intake"]

OVERHEAD = 4096
"""What a request costs in memory besides its body: many small ones must not go for nothing."""


class ClientLeftError(Exception):
    """The connection closed before the body was complete."""


class _NoRoomError(Exception):
    """The memory for bodies is full."""


@dataclass(slots=True)
class Body:
    """What one request's body takes until `Intake.release`. `total` is its announced length."""

    total: int | None = None
    held: int = 0


class Intake:
    """The way in, shared by all protocols of one server."""

    def __init__(
        self,
        plane: DataPlane,
        uploads: Uploads,
        metrics: Metrics,
        memory: BodyMemory,
        *,
        max_body_bytes: int,
        max_json_bytes: int,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        on_upload: Callable[[], None],
    ) -> None:
        """`on_upload` is called when the headers of a request are in and its body is not."""
        self.plane = plane
        self.metrics = metrics
        self.clock = clock
        self.max_body = max_body_bytes
        self._max_json = max_json_bytes
        self._uploads = uploads
        self._memory = memory
        self._wall_clock = wall_clock
        self._on_upload = on_upload

    def due(
        self, headers: Mapping[bytes, bytes], arrived: float, model: ServedModel, call_timeout_s: float | None = None
    ) -> Due:
        """The deadline of a request whose headers have just come in.

        Args:
            headers: lower-case names.
            arrived: now, on the server's clock.
            call_timeout_s: what the protocol itself carries as time limit of the call.

        Raises:
            ProblemError: 400 for a header that cannot be understood.
        """
        try:
            due = resolve(headers, arrived, self._wall_clock(), model.policy, call_timeout_s)
        except BadHeaderError as error:
            raise ProblemError(400, "invalid-header", str(error)) from None
        if due.sent_at in ("future", "stale"):
            self.metrics.sent_at_ignored.labels(due.sent_at).inc()
        return due

    def admit(self, model: ServedModel, due: Due, arrived: float) -> None:
        """Raises ProblemError 503 for a request that is lost before its body was read."""
        engine = self.plane.engine
        refusal = engine.refusal(due, arrived)
        if refusal is not None:
            engine.count_lost(model, due, "shed")
            raise problem_of(refusal)

    @asynccontextmanager
    async def receiving(self, model: ServedModel, due: Due, body: Body) -> AsyncIterator[Upload]:
        """While the body comes in: the planner knows of it, and it ends when the deadline cannot be met any more.

        Raises:
            ProblemError: 504 at that moment, 503 when `hold` found no room.
            ClientLeftError: passed on from the reader.
        """
        engine = self.plane.engine
        upload = self._uploads.begin(self.clock(), due.deadline, body.total, model.index)
        try:
            async with asyncio.timeout(engine.latest_start(due) - self.clock()):
                self.hold(OVERHEAD, body)
                yield upload
        except TimeoutError:
            engine.count_lost(model, due, "expired")
            got = f"{upload.received} bytes" if body.total is None else f"{upload.received} of {body.total} bytes"
            text = f"the deadline cannot be met any more, and of the body only {got} are here"
            raise ProblemError(504, "expired", text) from None
        except (ClientLeftError, asyncio.CancelledError):
            engine.count_lost(model, due, "cancelled")
            raise
        except _NoRoomError:
            engine.count_lost(model, due, "shed")
            text = "the server holds as many request bodies as it may: slow down, then try again"
            raise ProblemError(503, "no-room", text, retry_after(engine.scheduler.backlog_s())) from None
        finally:
            self._uploads.end(upload)

    def still_coming(self) -> None:
        """The headers of a request are in, its body is not."""
        self._on_upload()

    def hold(self, size: int, body: Body) -> None:
        """Sets `size` bytes aside for the body, or gives some back if it is below 0; inside `receiving` only."""
        if not self._memory.take(size):
            raise _NoRoomError
        body.held += size

    def release(self, body: Body) -> None:
        """The request is over: its memory is free again."""
        self._memory.give_back(body.held)
        body.held = 0

    def check_text_size(self, size: int, kind: str) -> None:
        """Raises ProblemError 413 for so many bytes of numbers that have to be parsed one by one."""
        if size > self._max_json:
            raise ProblemError(
                413,
                "too-much-json",
                f"{size} bytes of {kind}, at most {self._max_json} are taken: send the tensors in binary form",
            )

    def with_body_timeout(self, due: Due, request: InferRequest) -> Due:
        """The deadline once the body is known. Raises ProblemError 400 for a timeout that is no number."""
        if request.timeout_us is None:
            return due
        try:
            return due.with_body_timeout(request.timeout_us)
        except BadHeaderError as error:
            raise ProblemError(400, "invalid-timeout", str(error)) from None
