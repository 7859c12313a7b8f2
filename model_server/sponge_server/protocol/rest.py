"""The hot path: `POST /v2/models/{model}/infer` as a bare ASGI endpoint.

From headers to deadline to body to engine to response, in the order in which a request can be refused with the least
work. Knows HTTP, and the data plane as the place where requests go; nothing of scheduling.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from starlette.types import Receive, Scope, Send

from sponge_server.dataplane import problem_of
from sponge_server.deadlines import Due
from sponge_server.engine.engine import Engine, Job
from sponge_server.intake import Body, ClientLeftError, Intake
from sponge_server.model_handle import ServedModel
from sponge_server.protocol.oip import InferRequest, OipError, Strings
from sponge_server.protocol.oip_json import decode, encode
from sponge_server.protocol.problems import PROBLEM_TYPE, ProblemError
from sponge_server.results import RequestError, Timing
from sponge_server.uploads import Upload

__all__ = ["InferEndpoint", "server_timing"]

IMAGE_TYPES = (b"image/jpeg", b"image/png")
OIP_TYPES = (b"", b"application/json", b"application/octet-stream")
CLOSE = (b"connection", b"close")

SPARED_BYTES = 1 << 20
"""A refused request keeps its connection when the rest of its body is no longer than this: reading on costs less than
another connection. One that announces more, or no length, is to stop."""

Headers = list[tuple[bytes, bytes]]


class InferEndpoint:
    """Answers inference requests; one instance a server."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._plane = intake.plane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = self._intake.clock()
        try:
            status, headers, body = await self._answer(scope, receive, arrived)
        except ClientLeftError:
            return
        except ProblemError as problem:
            self._intake.metrics.problems.labels(str(problem.status)).inc()
            status, body = problem.status, problem.body()
            headers = [(b"content-type", PROBLEM_TYPE.encode()), *problem.headers]
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive, arrived: float) -> tuple[int, Headers, bytes]:
        body = Body()
        try:
            model, request, due = await self._take(scope, receive, arrived, body)
            job = self._plane.submit(model, request, due)
            watch = asyncio.get_running_loop().create_task(_cancel_on_disconnect(receive, self._plane.engine, job))
            try:
                answer = await job.future
            except RequestError as error:
                raise problem_of(error) from None
            finally:
                watch.cancel()
            content, json_length = self._plane.encode(model, request, answer, encode)
            return 200, _response_headers(answer.timing, json_length), content
        finally:
            self._intake.release(body)

    async def _take(
        self, scope: Scope, receive: Receive, arrived: float, body: Body
    ) -> tuple[ServedModel, InferRequest, Due]:
        """Reads a request. What `body` holds is to be given back."""
        intake, params, headers = self._intake, scope["path_params"], dict(scope["headers"])
        # What is refused from here to the end of the body is answered while the rest of it may still be coming.
        try:
            model = self._plane.serving(params["model"], params.get("version"))
            due = intake.due(headers, arrived, model)
            body.total, header_length = self._lengths(headers)
            is_image = _is_image(headers)
            intake.admit(model, due, arrived)
            async with intake.receiving(model, due, body) as upload:
                content = await self._read(receive, upload, body)
        except ProblemError as problem:
            if body.total is None or body.total > SPARED_BYTES:
                problem.headers = (*problem.headers, CLOSE)
            raise
        request = self._decode(content, is_image, header_length)
        return model, request, intake.with_body_timeout(due, request)

    def _lengths(self, headers: dict[bytes, bytes]) -> tuple[int | None, int | None]:
        """Announced length of the body, and of its JSON part."""
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise ProblemError(415, "encoded-body", "compressed bodies are not taken: send it without Content-Encoding")
        total = _whole(headers, b"content-length")
        limit = self._intake.max_body
        if total is not None and total > limit:
            raise ProblemError(413, "too-large", f"the body has {total} bytes, at most {limit} are taken")
        return total, _whole(headers, b"inference-header-content-length")

    async def _read(self, receive: Receive, upload: Upload, body: Body) -> bytes:
        intake = self._intake
        chunks: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            chunk: bytes = message.get("body", b"")
            if chunk:
                intake.hold(len(chunk), body)
                upload.received += len(chunk)
                chunks.append(chunk)
            if upload.received > intake.max_body:
                raise ProblemError(413, "too-large", f"the body is larger than {intake.max_body} bytes")
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)
            if len(chunks) <= 1:
                intake.still_coming()

    def _decode(self, body: bytes, is_image: bool, header_length: int | None) -> InferRequest:
        if is_image:
            return InferRequest(strings=(Strings("image", (1,), (body,)),))
        self._intake.check_text_size(len(body) if header_length is None else header_length, "JSON")
        try:
            return decode(body, header_length)
        except OipError as error:
            raise ProblemError(400, "invalid-request", str(error)) from None


def server_timing(timing: Timing) -> str:
    """The value of `Server-Timing`: where the time of a request went, in milliseconds."""
    spans: Iterable[tuple[str, float]] = (
        ("network", timing.network_s),
        ("queue", timing.queue_s),
        ("batch", timing.batch_s),
        ("infer", timing.infer_s),
    )
    return ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in spans)


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
    headers = [(b"server-timing", server_timing(timing).encode())]
    if json_length is None:
        headers.append((b"content-type", b"application/json"))
    else:
        headers.append((b"content-type", b"application/octet-stream"))
        headers.append((b"inference-header-content-length", str(json_length).encode()))
    return headers
