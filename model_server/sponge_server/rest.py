"""The hot path: `POST /v2/models/{model}/infer` as a bare ASGI endpoint.

From headers to deadline to body to engine to response, in the order in which a request can be refused with the least
work. Knows HTTP, and the data plane as the place where requests go; nothing of scheduling.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from sponge_server.answers import RequestError, Timing
from sponge_server.dataplane import RETRY_AFTER, DataPlane, problem_of
from sponge_server.deadlines import BadHeaderError, Due, SloPolicy, resolve
from sponge_server.engine import Engine, Job
from sponge_server.metrics import Metrics
from sponge_server.oip import InferRequest, OipError, Strings, decode
from sponge_server.problems import PROBLEM_TYPE, ProblemError
from sponge_server.uploads import BodyMemory, Upload, Uploads

__all__ = ["InferEndpoint"]

log = logging.getLogger(__name__)

IMAGE_TYPES = (b"image/jpeg", b"image/png")
OIP_TYPES = (b"", b"application/json", b"application/octet-stream")
CLOSE = (b"connection", b"close")

OVERHEAD = 4096
"""What a request costs in memory besides its body: many small ones must not go for nothing."""

Headers = list[tuple[bytes, bytes]]


class ClientLeftError(Exception):
    """The connection closed before the body was complete."""


class _NoRoomError(Exception):
    """The memory for bodies is full."""


@dataclass(slots=True)
class _Body:
    """What one request's body takes. `total` is its announced length."""

    held: int = 0
    total: int | None = None


class InferEndpoint:
    """Answers inference requests; one instance a server."""

    def __init__(
        self,
        plane: DataPlane,
        uploads: Uploads,
        metrics: Metrics,
        policy: SloPolicy,
        memory: BodyMemory,
        *,
        max_body_bytes: int,
        max_json_bytes: int,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        on_upload: Callable[[], None],
    ) -> None:
        """`on_upload` is called when the headers of a request are in and its body is not."""
        self._plane = plane
        self._uploads = uploads
        self._metrics = metrics
        self._policy = policy
        self._memory = memory
        self._max_body = max_body_bytes
        self._max_json = max_json_bytes
        self._clock = clock
        self._wall_clock = wall_clock
        self._on_upload = on_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived, wall = self._clock(), self._wall_clock()
        try:
            status, headers, body = await self._answer(scope, receive, arrived, wall)
        except ClientLeftError:
            return
        except ProblemError as problem:
            self._metrics.problems.labels(str(problem.status)).inc()
            status, body = problem.status, problem.body()
            headers = [(b"content-type", PROBLEM_TYPE.encode()), *problem.headers]
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive, arrived: float, wall: float) -> tuple[int, Headers, bytes]:
        params = scope["path_params"]
        self._plane.check_model(params["model"], params.get("version"))
        body = _Body()
        try:
            request, due, engine = await self._take(dict(scope["headers"]), receive, arrived, wall, body)
            job = self._plane.submit(request, due)
            watch = asyncio.get_running_loop().create_task(_cancel_on_disconnect(receive, engine, job))
            try:
                answer = await job.future
            except RequestError as error:
                raise problem_of(error) from None
            finally:
                watch.cancel()
            content, json_length = self._plane.encode(request, answer)
            return 200, _response_headers(answer.timing, json_length), content
        finally:
            self._memory.give_back(body.held)

    async def _take(
        self, headers: dict[bytes, bytes], receive: Receive, arrived: float, wall: float, body: _Body
    ) -> tuple[InferRequest, Due, Engine]:
        """Reads a request. What `body` holds is to be given back."""
        # What is refused from here to the end of the body is answered while the rest of it may still be coming, so the
        # connection is closed.
        try:
            _, engine = self._plane.serving()
            due = self._due(headers, arrived, wall)
            body.total, header_length = self._lengths(headers)
            is_image = _is_image(headers)
            if due.deadline <= arrived:
                engine.count_lost(due, "shed")
                raise ProblemError(503, "shed", "the deadline had passed when the request arrived", RETRY_AFTER)
            content = await self._upload(receive, due, body, engine)
        except ProblemError as problem:
            problem.headers = (*problem.headers, CLOSE)
            raise
        request = self._decode(content, is_image, header_length)
        if request.timeout_us is not None:
            try:
                due = due.with_body_timeout(request.timeout_us)
            except BadHeaderError as error:
                raise ProblemError(400, "invalid-timeout", str(error)) from None
        return request, due, engine

    def _due(self, headers: dict[bytes, bytes], arrived: float, wall: float) -> Due:
        try:
            due = resolve(headers, arrived, wall, self._policy)
        except BadHeaderError as error:
            raise ProblemError(400, "invalid-header", str(error)) from None
        if due.sent_at in ("future", "stale"):
            self._metrics.sent_at_ignored.labels(due.sent_at).inc()
        return due

    def _lengths(self, headers: dict[bytes, bytes]) -> tuple[int | None, int | None]:
        """Announced length of the body, and of its JSON part."""
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise ProblemError(415, "encoded-body", "compressed bodies are not taken: send it without Content-Encoding")
        total = _whole(headers, b"content-length")
        if total is not None and total > self._max_body:
            raise ProblemError(413, "too-large", f"the body has {total} bytes, at most {self._max_body} are taken")
        return total, _whole(headers, b"inference-header-content-length")

    async def _upload(self, receive: Receive, due: Due, body: _Body, engine: Engine) -> bytes:
        """The whole body. Raises ClientLeftError, or ProblemError when there is no room or the deadline passes."""
        upload = self._uploads.begin(self._clock(), due.deadline, body.total)
        try:
            async with asyncio.timeout(due.deadline - self._clock()):
                return await self._read(receive, upload, body)
        except TimeoutError:
            engine.count_lost(due, "expired")
            got = f"{upload.received} bytes" if body.total is None else f"{upload.received} of {body.total} bytes"
            raise ProblemError(504, "expired", f"the deadline passed during the upload, after {got}") from None
        except ClientLeftError:
            engine.count_lost(due, "cancelled")
            raise
        except _NoRoomError:
            engine.count_lost(due, "shed")
            text = "the server holds as many request bodies as it may: slow down, then try again"
            raise ProblemError(503, "no-room", text, RETRY_AFTER) from None
        finally:
            self._uploads.end(upload)

    async def _read(self, receive: Receive, upload: Upload, body: _Body) -> bytes:
        chunks: list[bytes] = []
        self._hold(OVERHEAD, body)
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            chunk: bytes = message.get("body", b"")
            if chunk:
                self._hold(len(chunk), body)
                upload.received += len(chunk)
                chunks.append(chunk)
            if upload.received > self._max_body:
                raise ProblemError(413, "too-large", f"the body is larger than {self._max_body} bytes")
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)
            if len(chunks) <= 1:
                self._on_upload()

    def _hold(self, size: int, body: _Body) -> None:
        if not self._memory.take(size):
            raise _NoRoomError
        body.held += size

    def _decode(self, body: bytes, is_image: bool, header_length: int | None) -> InferRequest:
        if is_image:
            return InferRequest(strings=(Strings("image", (1,), (body,)),))
        json_bytes = len(body) if header_length is None else header_length
        if json_bytes > self._max_json:
            raise ProblemError(
                413,
                "too-much-json",
                f"{json_bytes} bytes of JSON, at most {self._max_json} are taken: send the tensors in binary form",
            )
        try:
            return decode(body, header_length)
        except OipError as error:
            raise ProblemError(400, "invalid-request", str(error)) from None


async def _cancel_on_disconnect(receive: Receive, engine: Engine, job: Job) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    engine.cancel(job)


def _is_image(headers: dict[bytes, bytes]) -> bool:
    """Whether the body is one encoded image. Raises ProblemError 415 for a type that no request has."""
    content_type = headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower()
    if content_type in IMAGE_TYPES:
        return True
    # Several clients send the protocol's binary form under the type of an HTML form or none.
    if content_type in OIP_TYPES or b"inference-header-content-length" in headers:
        return False
    known = ", ".join(kind.decode() for kind in (*OIP_TYPES[1:3], *IMAGE_TYPES))
    given = content_type.decode("latin-1")
    raise ProblemError(415, "unsupported-type", f"Content-Type is {given!r}: send one of {known}")


def _whole(headers: dict[bytes, bytes], name: bytes) -> int | None:
    raw = headers.get(name)
    if raw is None:
        return None
    if not raw.isdigit() or len(raw) > 18:
        raise ProblemError(400, "invalid-header", f"{name.decode()} is {raw.decode('latin-1')!r}: give a whole number")
    return int(raw)


def _response_headers(timing: Timing, json_length: int | None) -> Headers:
    spans: Iterable[tuple[str, float]] = (
        ("network", timing.network_s),
        ("queue", timing.queue_s),
        ("batch", timing.batch_s),
        ("infer", timing.infer_s),
    )
    headers = [(b"server-timing", ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in spans).encode())]
    if json_length is None:
        headers.append((b"content-type", b"application/json"))
    else:
        headers.append((b"content-type", b"application/octet-stream"))
        headers.append((b"inference-header-content-length", str(json_length).encode()))
    return headers
