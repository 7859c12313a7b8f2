"""REST adapter: `POST /v2/models/{model}/infer` and the routes of `openai`, in front of the web framework.

It reads headers and body of an HTTP request and writes the response; the inference service does everything in between.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from typing import ClassVar

from starlette.types import ASGIApp, Receive, Scope, Send

from sponge_server.bounds import Bounds
from sponge_server.call import ClientLeftError
from sponge_server.clients import Peer
from sponge_server.inference_service import InferenceService
from sponge_server.lifecycle import Loaded
from sponge_server.memory_account import Account, Lease
from sponge_server.observability.metrics import Metrics
from sponge_server.protocol.catch_all import BUG, BUG_EVENT, CatchAll
from sponge_server.protocol.content_coding import Inflater, accepts_gzip, gzipped, is_coded
from sponge_server.protocol.key_guard import KeyGuard
from sponge_server.protocol.oip import InferRequest, OipError, Strings
from sponge_server.protocol.oip_json import decode, encode
from sponge_server.protocol.openai import ROUTES, Form, model_of
from sponge_server.protocol.problems import PROBLEM_TYPE, ProblemError
from sponge_server.results import Timing
from sponge_server.security.api_keys import ApiKeys
from sponge_server.workers.interface import Tensor

__all__ = ["RestEndpoint", "server_timing"]

log = logging.getLogger(__name__)

INFER = re.compile(r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer")

IMAGE_TYPES = (b"image/jpeg", b"image/png", b"image/webp")
OIP_TYPES = (b"application/json", b"application/octet-stream")
LOOSE_TYPES = (b"", b"application/x-www-form-urlencoded", b"text/plain")
"""Types under which the protocol's requests come as well: of clients that set none, and of `curl -d`."""
CLOSE = (b"connection", b"close")
JSON_TYPE = (b"content-type", b"application/json")
BINARY_TYPE = (b"content-type", b"application/octet-stream")
GZIP = ((b"content-encoding", b"gzip"), (b"vary", b"accept-encoding"))

SPARED_BYTES = 1 << 20
"""A refused request keeps its connection if the rest of its body is at most this long: reading on costs less than
another connection. A body that announces more, or no length, ends the connection."""

LONG_ANSWER_BYTES, LONG_GZIP_BYTES = 256 << 10, 32 << 10
"""A longer answer, plain or to be compressed, takes longer to write than a decision of the engine."""

PART_BYTES = 256 << 10
"""A longer answer is sent in parts of this size."""

_NO_MEMORY = Account(1)
"""For requests that come before any model is loaded: all are refused."""

Headers = list[tuple[bytes, bytes]]
Response = tuple[bytes, Headers]
"""The body of a response, and the headers that describe it."""


class RestEndpoint:
    """ASGI application of the data port: serves inference requests itself and passes all others on."""

    def __init__(
        self, service: Loaded[InferenceService], metrics: Metrics, others: ASGIApp, keys: ApiKeys | None = None
    ) -> None:
        """`others` serves every other request. `keys`: requests must carry one of them; None: they need none."""
        self._service = service
        self._keys = keys
        self._problems = metrics.problems
        self._errors = metrics.internal_errors
        self._others = CatchAll(others if keys is None else KeyGuard(others, keys), self._errors, "http")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The web framework's layers and its matching of routes cost as much as a decision of the engine.
        path = INFER.fullmatch(scope["path"])
        form = ROUTES.get(scope["path"])
        if path is None and form is None:
            if scope["method"] == "HEAD":
                scope = {**scope, "method": "GET"}  # the connection leaves out the body
            await self._others(scope, receive, send)
            return
        service = self._service.part
        with (service.account if service is not None else _NO_MEMORY).open() as lease:
            model, version = (None, None) if path is None else (path["model"], path["version"])
            headers_in = dict(scope["headers"])
            call = _RestCall(headers_in, model, version, receive, scope, lease, None if form is None else form())
            try:
                if self._keys is not None:
                    self._keys.holder(call.headers)
                if scope["method"] != "POST":
                    raise ProblemError(405, "http", "send inference requests with POST", [(b"allow", b"POST")])
                if service is None:
                    raise _unavailable(self._service, call)
                (body, headers), timing = await service.infer(call)
                status = 200
                headers.append((b"server-timing", server_timing(timing).encode()))
            except ClientLeftError:
                return
            except ProblemError as problem:
                status, body, headers = self._refused(problem, call)
            except Exception:
                log.exception(BUG_EVENT)
                self._errors.labels("http").inc()
                status, body, headers = self._refused(BUG, call)
            headers.append((b"content-length", str(len(body)).encode()))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await _send_body(body, send)

    def _refused(self, problem: ProblemError, call: _RestCall) -> tuple[int, bytes, Headers]:
        problem.forget()
        self._problems.labels(str(problem.status)).inc()
        headers = [(b"content-type", PROBLEM_TYPE.encode()), *problem.headers]
        if call.unread:
            headers.append(CLOSE)
        return problem.status, problem.body(), headers


async def _send_body(body: bytes, send: Send) -> None:
    """Sends a long body in parts, each after the client has read most of the one before: until then, it is held."""
    view = memoryview(body)
    for at in range(0, len(body) - PART_BYTES, PART_BYTES):
        await send({"type": "http.response.body", "body": view[at : at + PART_BYTES], "more_body": True})
    last = max(0, len(body) - 1) // PART_BYTES * PART_BYTES
    await send({"type": "http.response.body", "body": view[last:] if last else body})


class _RestCall:
    """Implements `inference_service.Call`."""

    text_kind: ClassVar[str] = "JSON"
    in_pieces: ClassVar[bool] = True

    __slots__ = (
        "_body",
        "_complete",
        "_form",
        "_gzip",
        "_image",
        "_inflater",
        "_json_length",
        "_length",
        "_receive",
        "_scope",
        "headers",
        "lease",
        "model",
        "version",
    )

    def __init__(
        self,
        headers: dict[bytes, bytes],
        model: str | None,
        version: str | None,
        receive: Receive,
        scope: Scope,
        lease: Lease,
        form: Form | None = None,
    ) -> None:
        """`form`: of a route whose body names the model, which is None until then."""
        self.headers = headers
        self.lease = lease
        self.model = model
        self._form = form
        self.version = version
        self._receive = receive
        self._scope = scope
        self._length: int | None = None
        self._json_length: int | None = None
        self._image = False
        self._gzip = False
        self._inflater: Inflater | None = None
        self._complete = False
        self._body: bytes | bytearray = b""

    @property
    def timeout_s(self) -> None:
        """HTTP has no time limit of its own."""

    @property
    def peer(self) -> Peer:
        address, port = self._scope["client"] or ("", 0)
        return Peer(address, f"{address}:{port}")

    @property
    def unread(self) -> bool:
        """Whether so much of the body may still come that the connection should end."""
        return not self._complete and (self._length is None or self._length > SPARED_BYTES)

    def body_length(self) -> int | None:
        headers = self.headers
        self._length = _whole(headers, b"content-length")
        if is_coded(headers):
            self._inflater = Inflater(self._receive_piece)
        self._gzip = accepts_gzip(headers)
        self._json_length = _whole(headers, b"inference-header-content-length")
        self._image = _is_image(headers)
        return self._length

    @property
    def long_answer_bytes(self) -> int:
        return LONG_GZIP_BYTES if self._gzip else LONG_ANSWER_BYTES

    async def receive(self) -> tuple[bytes, int, bool]:
        if self._inflater is not None:
            return await self._inflater.receive()
        piece, more = await self._receive_piece()
        return piece, len(piece), more

    async def _receive_piece(self) -> tuple[bytes, bool]:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        more: bool = message.get("more_body", False)
        self._complete = not more
        return message.get("body", b""), more

    def parse(self, body: bytes | bytearray, bounds: Bounds) -> int:  # noqa: ARG002
        self._body = body
        if self._form is not None:
            try:
                self.model = model_of(body)
            except OipError as error:
                raise ProblemError(400, "invalid-request", str(error)) from None
            return len(body)
        if self._image:
            return 0
        return len(body) if self._json_length is None else self._json_length

    def decode(self, bounds: Bounds) -> InferRequest:
        if self._image:
            return InferRequest(strings=(Strings("image", (1,), (self._body,)),))
        body, self._body = self._body, b""  # what is needed of it, the request refers to
        if self._form is not None:
            return self._form.decode(body, bounds)
        return decode(body, self._json_length, bounds)

    def watch(self, on_left: Callable[[], None]) -> Callable[[], object]:
        return asyncio.get_running_loop().create_task(self._until_left(on_left)).cancel

    def encode(
        self,
        model: str,
        version: str,
        request: InferRequest,
        outputs: Sequence[Tensor],
        labels: Sequence[str] | None,
        answered_by: tuple[str, float] | None,
    ) -> Response:
        if self._form is None:
            body, json_length = encode(model, version, request, outputs, labels, answered_by)
        else:
            body, json_length = self._form.encode(model, outputs), None
        headers = [JSON_TYPE]
        if json_length is not None:
            headers = [BINARY_TYPE, (b"inference-header-content-length", str(json_length).encode())]
        if answered_by is not None:
            name, accuracy = answered_by
            headers += [(b"x-sponge-variant", name.encode()), (b"x-sponge-accuracy", f"{accuracy:g}".encode())]
        small = gzipped(body) if self._gzip else None
        if small is not None:
            return small, [*headers, *GZIP]
        return body, headers

    async def _until_left(self, on_left: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        on_left()


def server_timing(timing: Timing) -> str:
    """The value of `Server-Timing`: where the time of a request went, in milliseconds."""
    return (
        f"network;dur={timing.network_s * 1000:.3f}, queue;dur={timing.queue_s * 1000:.3f}, "
        f"batch;dur={timing.batch_s * 1000:.3f}, infer;dur={timing.infer_s * 1000:.3f}"
    )


def _unavailable(service: Loaded[InferenceService], call: _RestCall) -> ProblemError:
    if call.model is not None:
        service.lifecycle.check_model(call.model, call.version)
    return service.lifecycle.not_ready()


def _is_image(headers: dict[bytes, bytes]) -> bool:
    """Whether the body is one encoded image. Raises ProblemError 415 for an unsupported type."""
    content_type = headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower()
    if content_type in IMAGE_TYPES:
        return True
    if content_type in OIP_TYPES or content_type in LOOSE_TYPES or content_type.endswith(b"+json"):
        return False
    if b"inference-header-content-length" in headers:
        return False
    known = ", ".join(kind.decode() for kind in (*OIP_TYPES, *IMAGE_TYPES))
    given = content_type.decode("latin-1")
    raise ProblemError(415, "unsupported-type", f"Content-Type is {given!r}: send one of {known}")


def _whole(headers: dict[bytes, bytes], name: bytes) -> int | None:
    raw = headers.get(name)
    if raw is None:
        return None
    if not raw.isdigit() or len(raw) > 18:
        raise ProblemError(400, "invalid-header", f"{name.decode()} is {raw.decode('latin-1')!r}: give a whole number")
    return int(raw)
