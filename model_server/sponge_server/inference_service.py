"""Inference service: the one path of a request through the server, whatever its protocol.

An adapter (REST, gRPC) describes a request as a `Call`. The service resolves its deadline, admits it, receives the body
within its deadline, the model's bounds and the account of memory, submits it to the engine, waits for the result, and
turns every error into a ProblemError. Each request is counted once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from sponge_core.deadlines import Arrival, BadHeaderError, Due, resolve
from sponge_server.bounds import Bounds, common
from sponge_server.call import Call, ClientLeftError
from sponge_server.clients import Clients
from sponge_server.engine.engine import Engine
from sponge_server.era import Era
from sponge_server.fronts import FrontNumbers
from sponge_server.lifecycle import Lifecycle
from sponge_server.memory_account import Account, NoRoomError
from sponge_server.model_handle import ModelHandle
from sponge_server.observability.metrics import Metrics
from sponge_server.observability.model_counts import ModelCounts
from sponge_server.protocol.answer_size import answer_bytes
from sponge_server.protocol.long_json import LONG_TEXT_BYTES
from sponge_server.protocol.oip import InferRequest, OipError
from sponge_server.protocol.problems import ELSEWHERE, ProblemError, retry_after
from sponge_server.refusals import problem_of, refusal, rows_in, too_large, with_parameters
from sponge_server.results import (
    InferenceResult,
    RequestError,
    Timing,
)
from sponge_server.uploads import TRUSTED_AFTER_S, Upload, Uploads
from sponge_server.workers.interface import Item, ModelInfo

__all__ = ["InferenceService"]

R = TypeVar("R")
T = TypeVar("T")

OVERHEAD_BYTES = 4096
"""Memory of a request besides its body, so that many small ones count too."""

TEXT_FACTOR = 4
"""Bytes of a tensor for each byte of its text, at most: two characters are the shortest number, with its comma."""

CANCEL_TOLERANCE_S = 0.02
"""A call cancelled this close to its deadline has timed out: the client did not change its mind."""


class InferenceService:
    """Serves the loaded models. One instance per server, shared by all protocols.

    Attributes:
        account: memory of all requests.
        widest: what fits one of the models.
        message_bytes: memory set aside for a message of unknown size; a larger one must not arrive.
    """

    def __init__(
        self,
        models: Sequence[ModelHandle],
        clients: Clients,
        engine: Engine,
        lifecycle: Lifecycle,
        uploads: Uploads,
        account: Account,
        metrics: Metrics,
        counts: Sequence[ModelCounts],
        fronts: FrontNumbers,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """A service of loaded models.

        Args:
            counts: by index of the model.
            fronts: hears of every request.
            clock: monotonic seconds.
            wall_clock: epoch seconds.
        """
        self.account = account
        self.widest = common([model.bounds for model in models])
        self.message_bytes = min(self.widest.message_bytes, account.most_arriving)
        self._models = {model.info.name: model for model in models}
        # Stands in for a model that the body has yet to name: with the longest default objective, no request is given
        # up that its own model would have had time for.
        self._stand_in = max(models, key=lambda model: model.policy.default_s)
        self._clients = clients
        self._engine = engine
        self._lifecycle = lifecycle
        self._uploads = uploads
        self._metrics = metrics
        self._counts = counts
        self._fronts = fronts
        self._clock = clock
        self._wall_clock = wall_clock
        self._era = Era()
        # One thread: however many long texts wait, the event loop competes with one.
        self._reader = ThreadPoolExecutor(1, "reader")

    def describe(self, name: str, version: str | None = None) -> ModelInfo:
        """Shapes and datatypes of a model. Raises ProblemError 404 when this server does not have it."""
        self._lifecycle.check_model(name, version)
        return self._models[name].info

    def statistics(self, name: str | None, version: str | None = None) -> list[tuple[ModelHandle, ModelCounts]]:
        """Counts of one model, or of all. Raises ProblemError 404 when this server does not have it."""
        if name is not None:
            self._lifecycle.check_model(name, version)
        wanted = self._models.values() if name is None else [self._models[name]]
        return [(model, self._counts[model.index]) for model in wanted]

    def take_over(self, name: str, model: ModelHandle | None) -> Era:
        """Requests from now on get this version of a model; None: they are refused. The calls that came before."""
        before, self._era = self._era, Era()
        others = {other: present for other, present in self._models.items() if other != name}
        self._models = others if model is None else {**others, name: model}
        if self._models:
            self.widest = common([present.bounds for present in self._models.values()])
            self._stand_in = max(self._models.values(), key=lambda present: present.policy.default_s)
        return before

    async def infer(self, call: Call[R]) -> tuple[R, Timing]:
        """Serves one request, from its headers to its response.

        Raises:
            ProblemError: the response is an error.
            ClientLeftError: the client disconnected during the upload.
        """
        with self._era:
            return await self._infer(call)

    async def _infer(self, call: Call[R]) -> tuple[R, Timing]:
        arrived, wall = self._clock(), self._wall_clock()
        self._fronts.arrived(call.headers)
        named = call.model is not None
        model = self._find(call) if named else self._stand_in
        if not self._lifecycle.accepting:
            raise self._lifecycle.not_ready()
        quota = self._clients.admit(call.headers, call.peer, arrived)
        arrival = self._arrival(call, arrived, wall)
        due = self._due(arrival, model)
        self._count_send_time(due)
        bounds = model.bounds if named else self.widest
        total = call.body_length()
        if total is not None and total > bounds.body_bytes:
            raise too_large(f"{total} bytes", bounds.body_bytes)
        self._admit(model, due, arrived)
        body = await self._receive(call, model, due, Upload(self._clock(), due.deadline, total, model.index), bounds)
        text_bytes, size = call.parse(body, bounds), len(body)
        del body  # the call has its own form of it, and the account knows of one
        if not named:
            named_model = self._find(call)
            if named_model is not model:
                model, found = named_model, due.sent_at
                due = self._due(arrival, model)
                if due.sent_at != found:  # by the model's own time limit, the clock is off
                    self._count_send_time(due)
            if size > model.bounds.message_bytes:
                raise too_large(f"{size} bytes", model.bounds.message_bytes)
        request = await self._decode(call, model, due, text_bytes)
        if request.timeout_us is not None or request.accuracy_floor is not None:
            due = with_parameters(due, request, model)
        rows = rows_in(request, model)
        if quota is not None:
            quota.take(len(rows) - 1)
        expected = answer_bytes(request, model.info.outputs, sum(item.rows for item in rows))
        with self._room(model, due):
            call.lease.take(expected)
        result = await self._run(call, model, rows, due)
        return await self._encode(call, model, request, result, expected), result.timing

    def _find(self, call: Call[R]) -> ModelHandle:
        name = call.model or ""
        model = self._models.get(name)
        if model is None or call.version is not None:
            self._lifecycle.check_model(name, call.version)
            return self._models[name]
        return model

    def _arrival(self, call: Call[R], arrived: float, wall: float) -> Arrival:
        clocks = self._clients.clocks(call.headers, call.peer)
        try:
            return Arrival.of(call.headers, arrived, wall, call.timeout_s, clocks)
        except BadHeaderError as error:
            raise ProblemError(400, "invalid-header", str(error)) from None

    def _due(self, arrival: Arrival, model: ModelHandle) -> Due:
        try:
            return resolve(arrival, model.policy)
        except BadHeaderError as error:
            raise ProblemError(400, "invalid-header", str(error)) from None

    def _count_send_time(self, due: Due) -> None:
        if due.sent_at in ("future", "stale"):
            self._metrics.sent_at_ignored.labels(due.sent_at).inc()
        elif due.sent_at == "behind":
            self._metrics.sent_at_corrected.inc()

    def _admit(self, model: ModelHandle, due: Due, arrived: float) -> None:
        """Raises ProblemError 503 when the deadline cannot be met even if the body came at once."""
        error = refusal(self._engine.scheduler, due, arrived)
        if error is not None:
            self._engine.count_refused(model, due, "shed")
            raise problem_of(error)

    async def _receive(
        self, call: Call[R], model: ModelHandle, due: Due, upload: Upload, bounds: Bounds
    ) -> bytes | bytearray:
        """The body. Raises ProblemError 504 once the deadline can no longer be met, 503 when memory is full."""
        engine = self._engine
        latest_s = due.deadline - (engine.scheduler.least_s() if due.settled else 0.0)
        self._uploads.add(upload)
        try:
            with self._room(model, due):
                async with asyncio.timeout(latest_s - self._clock()):
                    return await self._read(call, upload, bounds)
        except TimeoutError:
            engine.count_refused(model, due, "expired")
            got = f"{upload.received} bytes" if upload.total is None else f"{upload.received} of {upload.total} bytes"
            text = f"the deadline can no longer be met, and only {got} of the body have arrived"
            raise ProblemError(504, "expired", text) from None
        except (ClientLeftError, asyncio.CancelledError):
            engine.count_refused(model, due, "cancelled")
            raise
        finally:
            self._uploads.discard(upload)

    async def _message(self, call: Call[R]) -> tuple[bytes, int, bool]:
        """A message, whose size is unknown until it is here: the memory for the largest one is set aside before."""
        size = self.message_bytes
        await self.account.set_aside(size)
        pending = asyncio.get_running_loop().call_later(TRUSTED_AFTER_S, self._engine.requests_pending)
        try:
            piece, arrived, more = await call.receive()
        finally:
            pending.cancel()
            self.account.arrived(size)
        if more:  # it was compressed, and is kept until all of it is decompressed
            call.lease.take(arrived)
        return piece, arrived, more

    async def _read(self, call: Call[R], upload: Upload, bounds: Bounds) -> bytes | bytearray:
        lease, limit = call.lease, bounds.body_bytes
        if call.in_pieces:
            lease.take(OVERHEAD_BYTES)
            piece, arrived, more = await call.receive()
        else:
            limit = self.message_bytes
            piece, arrived, more = await self._message(call)
            lease.take(OVERHEAD_BYTES)
        body: bytes | bytearray = b""
        while True:
            first = upload.received == 0
            upload.received += arrived
            if piece:
                lease.take(len(piece))
                if len(body) + len(piece) > limit:
                    raise too_large("more bytes", limit)
                if not body:
                    body = piece
                else:
                    # One growing buffer: pieces and their sum together would take twice the memory.
                    if isinstance(body, bytes):
                        body = bytearray(body)
                    body += piece
            if not more:
                return body
            if first:
                self._engine.requests_pending()
            piece, arrived, more = await call.receive()

    async def _decode(self, call: Call[R], model: ModelHandle, due: Due, text_bytes: int) -> InferRequest:
        bounds = model.bounds
        if text_bytes > bounds.text_bytes:
            text = f"{text_bytes} bytes of {call.text_kind}, at most {bounds.text_bytes} are accepted for this model"
            raise ProblemError(413, "too-much-json", f"{text}: send them in binary form")
        try:
            if text_bytes <= LONG_TEXT_BYTES:
                return call.decode(bounds)
            with self._room(model, due):
                call.lease.take(min(bounds.tensor_bytes, TEXT_FACTOR * text_bytes))
            async with asyncio.timeout(due.deadline - self._clock()):
                return await self._in_thread(lambda: call.decode(bounds))
        except OipError as error:
            raise ProblemError(400, "invalid-request", str(error)) from None
        except TimeoutError:
            self._engine.count_refused(model, due, "expired")
            text = f"the deadline passed while {text_bytes} bytes of {call.text_kind} waited to be read"
            raise ProblemError(504, "expired", f"{text}: send them in binary form") from None
        except asyncio.CancelledError:
            self._engine.count_refused(model, due, "cancelled")
            raise

    async def _encode(
        self, call: Call[R], model: ModelHandle, request: InferRequest, result: InferenceResult, expected: int
    ) -> R:
        """The response. `expected`: bytes that were taken for it; with dimensions of any size it may need more."""
        info, outputs = model.info, result.outputs
        if not info.batched:  # to the client, it is no row
            outputs = tuple(replace(output, shape=output.shape[1:]) for output in outputs)
        size = answer_bytes(request, outputs, 1)
        if size > expected:
            call.lease.force(size - expected)

        def encode() -> R:
            return call.encode(info.name, model.version, request, outputs, info.labels, result.answered_by)

        try:
            return encode() if size <= call.long_answer_bytes else await self._in_thread(encode)
        except OipError as error:
            raise ProblemError(400, "unknown-output", str(error)) from None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reader, work)

    @contextlib.contextmanager
    def _room(self, model: ModelHandle, due: Due) -> Iterator[None]:
        """Turns a lack of memory into ProblemError 503, and counts it."""
        try:
            yield
        except NoRoomError:
            self._engine.count_refused(model, due, "shed")
            text = "the memory for requests and answers is full: slow down, then try again"
            headers = (*retry_after(self._engine.scheduler.backlog_s()), ELSEWHERE)
            raise ProblemError(503, "no-room", text, headers) from None

    async def _run(self, call: Call[R], model: ModelHandle, rows: Sequence[Item], due: Due) -> InferenceResult:
        """Submits the request and waits for its result."""
        # A request whose body was still coming when the server began to drain was accepted before: it is served.
        engine = self._engine
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
            # Its frames hold the job, which holds it: else the whole request would wait for the garbage collector.
            raise problem_of(error.with_traceback(None)) from None
