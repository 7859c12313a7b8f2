"""Inference service: the one path of a request through the server, whatever its protocol.

An adapter (REST, gRPC) describes a request as a `Call`. The service resolves its deadline, admits it, receives the body
within its deadline and the memory limit, submits it to the engine, waits for the result, and turns every error into a
ProblemError. Each request is counted once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from sponge_core.quota import TokenBucket
from sponge_server.clients import Clients, Peer
from sponge_server.deadlines import BadHeaderError, Due, resolve
from sponge_server.engine.engine import Engine
from sponge_server.engine.scheduler import Scheduler
from sponge_server.lifecycle import Lifecycle
from sponge_server.model_handle import ModelHandle
from sponge_server.observability.metrics import Metrics
from sponge_server.protocol.oip import MODEL_VERSION, InferRequest, OipError, rows_of
from sponge_server.protocol.problems import ProblemError, retry_after
from sponge_server.results import (
    ExpiredError,
    FailedError,
    InferenceResult,
    RejectedError,
    RequestError,
    ShedError,
    Timing,
)
from sponge_server.uploads import TRUSTED_AFTER_S, Upload, Uploads
from sponge_server.workers.interface import ItemError, ModelInfo, Tensor

__all__ = ["BodyMemory", "Call", "ClientLeftError", "InferenceLimits", "InferenceService", "refusal"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

OVERHEAD_BYTES = 4096
"""Memory of a request besides its body, so that many small ones count too."""

CANCEL_TOLERANCE_S = 0.02
"""A call cancelled this close to its deadline has timed out: the client did not change its mind."""


class ClientLeftError(Exception):
    """The client disconnected before the body was complete."""


class _NoMemoryError(Exception):
    """The memory for request bodies is full."""


@dataclass(frozen=True, slots=True)
class InferenceLimits:
    """Limits in bytes: of a body, and of the numbers in it that are parsed one by one (JSON)."""

    max_body_bytes: int
    max_json_bytes: int


class Call(Protocol[R_co]):
    """One inference request, as its protocol's adapter reads and answers it. The service calls the methods in order.

    Attributes:
        text_kind: what the protocol calls numbers that are parsed one by one.
        in_pieces: the body arrives in pieces; else it arrives whole, and its protocol limits its size.
        headers: lower-case names.
        model, version: as addressed. A model of None: the body names it.
        timeout_s: time limit of the call in the protocol itself, in seconds; None where there is none.
        peer: the other end of the connection.
    """

    text_kind: ClassVar[str]
    in_pieces: ClassVar[bool]

    @property
    def headers(self) -> Mapping[bytes, bytes]: ...

    @property
    def model(self) -> str | None: ...

    @property
    def version(self) -> str | None: ...

    @property
    def timeout_s(self) -> float | None: ...

    @property
    def peer(self) -> Peer: ...

    def body_length(self) -> int | None:
        """Checks the protocol's headers; the announced length of the body. Raises ProblemError."""
        ...

    async def receive(self) -> tuple[bytes, bool]:
        """The next piece of the body, and whether more follow. Raises ClientLeftError, ProblemError."""
        ...

    def parse(self, body: bytes) -> int:
        """Takes the whole body and sets `model`; the size of its text in bytes. Raises ProblemError."""
        ...

    def decode(self) -> InferRequest:
        """The request. Raises OipError."""
        ...

    def watch(self, on_left: Callable[[], None]) -> Callable[[], object]:
        """Calls `on_left` when the client disconnects, until the returned function is called."""
        ...

    def encode(
        self, model: str, version: str, request: InferRequest, outputs: Sequence[Tensor], labels: Sequence[str] | None
    ) -> R_co:
        """The response. Raises OipError when an output is requested that the model does not have."""
        ...


class BodyMemory:
    """Counts the bytes of all request bodies that are held: uploading, waiting, running or being answered."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def take(self, size: int) -> bool:
        """Sets `size` bytes aside; returns False, and sets nothing aside, when they do not fit."""
        if self.held + size > self._limit:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        """Frees `size` bytes."""
        self.held -= size


class InferenceService:
    """Serves the loaded models. One instance per server, shared by all protocols."""

    def __init__(
        self,
        models: Sequence[ModelHandle],
        clients: Clients,
        engine: Engine,
        lifecycle: Lifecycle,
        uploads: Uploads,
        memory: BodyMemory,
        metrics: Metrics,
        limits: InferenceLimits,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """`clock` gives monotonic seconds, `wall_clock` epoch seconds."""
        self._models = {model.info.name: model for model in models}
        # Stands in for a model that the body has yet to name: with the longest default objective, no request is given
        # up that its own model would have had time for.
        self._stand_in = max(models, key=lambda model: model.policy.default_s)
        self._clients = clients
        self._engine = engine
        self._lifecycle = lifecycle
        self._uploads = uploads
        self._memory = memory
        self._metrics = metrics
        self._limits = limits
        self._clock = clock
        self._wall_clock = wall_clock

    def describe(self, name: str, version: str | None = None) -> ModelInfo:
        """Shapes and datatypes of a model. Raises ProblemError 404 when this server does not have it."""
        self._lifecycle.check_model(name, version)
        return self._models[name].info

    async def infer(self, call: Call[R]) -> tuple[R, Timing]:
        """Serves one request, from its headers to its response.

        Raises:
            ProblemError: the response is an error.
            ClientLeftError: the client disconnected during the upload.
        """
        upload: Upload | None = None
        try:
            arrived = self._clock()
            named = call.model is not None
            model = self._find(call) if named else self._stand_in
            if not self._lifecycle.accepting:
                raise self._lifecycle.not_ready()
            quota = self._clients.admit(call.headers, call.peer, arrived)
            due = self._due(call, arrived, model)
            total = call.body_length()
            limit = self._limits.max_body_bytes
            if total is not None and total > limit:
                raise ProblemError(413, "too-large", f"the body has {total} bytes, at most {limit} are accepted")
            self._admit(model, due, arrived)
            upload = Upload(self._clock(), due.deadline, total, model.index)
            body = await self._receive(call, model, due, upload)
            text_bytes = call.parse(body)
            if not named:
                named_model = self._find(call)
                if named_model is not model:
                    model = named_model
                    due = self._due(call, arrived, model)
            request = self._decode(call, text_bytes)
            if request.timeout_us is not None:
                due = _with_timeout(due, request.timeout_us, model)
            result = await self._run(call, model, request, due, quota)
            info = model.info
            try:
                response = call.encode(info.name, MODEL_VERSION, request, result.outputs, info.labels)
            except OipError as error:
                raise ProblemError(400, "unknown-output", str(error)) from None
        finally:
            if upload is not None:
                self._memory.give_back(upload.held)
        return response, result.timing

    def _find(self, call: Call[R]) -> ModelHandle:
        name = call.model or ""
        model = self._models.get(name)
        if model is None or call.version is not None:
            self._lifecycle.check_model(name, call.version)
            return self._models[name]
        return model

    def _due(self, call: Call[R], arrived: float, model: ModelHandle) -> Due:
        clocks = self._clients.clocks(call.headers, call.peer)
        try:
            due = resolve(call.headers, arrived, self._wall_clock(), model.policy, call.timeout_s, clocks)
        except BadHeaderError as error:
            raise ProblemError(400, "invalid-header", str(error)) from None
        if due.sent_at in ("future", "stale"):
            self._metrics.sent_at_ignored.labels(due.sent_at).inc()
        elif due.sent_at == "behind":
            self._metrics.sent_at_corrected.inc()
        return due

    def _admit(self, model: ModelHandle, due: Due, arrived: float) -> None:
        """Raises ProblemError 503 when the deadline cannot be met even if the body came at once."""
        error = refusal(self._engine.scheduler, due, arrived)
        if error is not None:
            self._engine.count_refused(model, due, "shed")
            raise _problem(error)

    async def _receive(self, call: Call[R], model: ModelHandle, due: Due, upload: Upload) -> bytes:
        """The body. Raises ProblemError 504 once the deadline can no longer be met, 503 when memory is full."""
        engine = self._engine
        latest_s = due.deadline - (engine.scheduler.least_s() if due.settled else 0.0)
        self._uploads.add(upload)
        try:
            async with asyncio.timeout(latest_s - self._clock()):
                return await self._read(call, model, upload)
        except TimeoutError:
            engine.count_refused(model, due, "expired")
            got = f"{upload.received} bytes" if upload.total is None else f"{upload.received} of {upload.total} bytes"
            text = f"the deadline can no longer be met, and only {got} of the body have arrived"
            raise ProblemError(504, "expired", text) from None
        except (ClientLeftError, asyncio.CancelledError):
            engine.count_refused(model, due, "cancelled")
            raise
        except _NoMemoryError:
            engine.count_refused(model, due, "shed")
            text = "the memory for request bodies is full: slow down, then try again"
            raise ProblemError(503, "no-room", text, retry_after(engine.scheduler.backlog_s())) from None
        finally:
            self._uploads.discard(upload)

    async def _read(self, call: Call[R], model: ModelHandle, upload: Upload) -> bytes:
        if call.in_pieces:
            return await self._read_pieces(call, upload)
        # The size is unknown until the end: memory for one row is set aside before.
        expected = min(model.info.least_row_bytes, self._limits.max_body_bytes)
        self._hold(OVERHEAD_BYTES + expected, upload)
        pending = asyncio.get_running_loop().call_later(TRUSTED_AFTER_S, self._engine.requests_pending)
        try:
            body, _ = await call.receive()
        finally:
            pending.cancel()
        upload.received = len(body)
        self._hold(len(body) - expected, upload)
        return body

    async def _read_pieces(self, call: Call[R], upload: Upload) -> bytes:
        limit = self._limits.max_body_bytes
        self._hold(OVERHEAD_BYTES, upload)
        pieces: list[bytes] = []
        while True:
            piece, more = await call.receive()
            if piece:
                self._hold(len(piece), upload)
                upload.received += len(piece)
                pieces.append(piece)
            if upload.received > limit:
                raise ProblemError(413, "too-large", f"the body is larger than {limit} bytes")
            if not more:
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if len(pieces) <= 1:
                self._engine.requests_pending()

    def _hold(self, size: int, upload: Upload) -> None:
        if not self._memory.take(size):
            raise _NoMemoryError
        upload.held += size

    def _decode(self, call: Call[R], text_bytes: int) -> InferRequest:
        limit = self._limits.max_json_bytes
        if text_bytes > limit:
            text = f"{text_bytes} bytes of {call.text_kind}, at most {limit} are accepted: send them in binary form"
            raise ProblemError(413, "too-much-json", text)
        try:
            return call.decode()
        except OipError as error:
            raise ProblemError(400, "invalid-request", str(error)) from None

    async def _run(
        self, call: Call[R], model: ModelHandle, request: InferRequest, due: Due, quota: TokenBucket | None
    ) -> InferenceResult:
        """Submits the request and waits for its result."""
        # A request whose body was still coming when the server began to drain was accepted before: it is served.
        engine = self._engine
        try:
            rows = rows_of(request, model.info)
        except ItemError as error:
            raise ProblemError(422, "does-not-fit-model", str(error)) from None
        if quota is not None:
            quota.take(len(rows) - 1)
        try:
            job = engine.submit(model, rows, due)
            stop_watching = call.watch(lambda: engine.cancel(job))
            try:
                # Shielded, because only the engine ends a job.
                return await asyncio.shield(job.future)
            except asyncio.CancelledError:
                # The call ends when its client leaves, or when its deadline passes; the engine counts the latter.
                if self._clock() < due.deadline - CANCEL_TOLERANCE_S:
                    engine.cancel(job)
                raise
            finally:
                stop_watching()
        except RequestError as error:
            raise _problem(error) from None


def refusal(scheduler: Scheduler, due: Due, now: float) -> ShedError | None:
    """Why a request would miss its deadline even if its body were here at `now`; None when it would not."""
    left_s = due.deadline - now
    # The body may state another time limit: then only a deadline that has passed is final.
    least_s = scheduler.least_s() if due.settled else 0.0
    if left_s <= least_s:
        return ShedError.hopeless(due.limit_s, left_s, scheduler.backlog_s())
    if not due.settled:
        return None
    rows, ahead_s = scheduler.ahead(due.deadline)
    if left_s <= least_s + ahead_s:
        return ShedError.behind(due.limit_s, left_s, least_s, rows, ahead_s)
    return None


def _with_timeout(due: Due, timeout_us: object, model: ModelHandle) -> Due:
    try:
        return due.with_body_timeout(timeout_us, model.policy.claims)
    except BadHeaderError as error:
        raise ProblemError(400, "invalid-timeout", str(error)) from None


def _problem(error: RequestError) -> ProblemError:
    match error:
        case ShedError():
            return ProblemError(503, "shed", str(error), retry_after(error.retry_s))
        case ExpiredError():
            return ProblemError(504, "expired", str(error))
        case RejectedError():
            return ProblemError(422, "rejected-by-model", str(error))
        case FailedError():
            return ProblemError(500, "failed", str(error))
        case _:
            return ProblemError(499, "cancelled", str(error))
