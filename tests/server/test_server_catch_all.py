"""Errors that nothing else catches: the client gets a problem without details, the server a log line and a count."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
import orjson
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sponge_server.lifecycle import Lifecycle, Loaded
from sponge_server.memory_account import Account
from sponge_server.observability.metrics import Metrics
from sponge_server.protocol.catch_all import CatchAll
from sponge_server.protocol.grpc_service import SERVICE, inference_handler
from sponge_server.protocol.http_app import data_app
from sponge_server.protocol.rest import RestEndpoint
from sponge_server.protos import inference_pb2 as pb

SECRET = "the secret of a bug"


class BrokenService:
    """An inference service with a bug in every call."""

    def __init__(self) -> None:
        self.account = Account(1 << 20)

    async def infer(self, _: object) -> NoReturn:
        raise ZeroDivisionError(SECRET)

    def describe(self, *_: object) -> NoReturn:
        raise ZeroDivisionError(SECRET)


def broken() -> Loaded[Any]:
    return Loaded(Lifecycle(["m"], "ready"), BrokenService())


async def ask(app: ASGIApp, method: str, path: str) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "http_version": "1.1"}
    await app(scope, receive, send)
    return sent


def counted(metrics: Metrics, port: str) -> float:
    value: float | None = metrics.registry.get_sample_value("sponge_internal_errors_total", {"port": port})
    return value or 0.0


@pytest.mark.parametrize(("method", "path"), [("POST", "/v2/models/m/infer"), ("GET", "/v2/models/m")])
async def test_a_bug_is_a_problem_over_rest(method: str, path: str, caplog: pytest.LogCaptureFixture) -> None:
    metrics, service = Metrics(), broken()
    with caplog.at_level(logging.ERROR):
        start, body = await ask(RestEndpoint(service, metrics, data_app(service)), method, path)
    assert (start["status"], dict(start["headers"])[b"content-type"]) == (500, b"application/problem+json")
    assert orjson.loads(body["body"])["type"] == "urn:sponge:problem:internal"
    assert SECRET.encode() not in body["body"]
    assert SECRET in caplog.text
    assert counted(metrics, "http") == 1
    assert service.part is not None
    assert service.part.account.held == 0


async def answer_then_fail(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise ZeroDivisionError(SECRET)


async def test_half_an_answer_is_not_made_whole() -> None:
    metrics = Metrics()
    with pytest.raises(ZeroDivisionError):
        await ask(CatchAll(answer_then_fail, metrics.internal_errors, "control"), "GET", "/")
    assert counted(metrics, "control") == 1


@pytest.fixture
async def channel() -> AsyncIterator[tuple[grpc.aio.Channel, Metrics, Loaded[Any]]]:
    metrics, service = Metrics(), broken()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((inference_handler(service, metrics),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel, metrics, service
    await server.stop(None)


@pytest.mark.parametrize(
    ("method", "message"),
    [("ModelInfer", pb.ModelInferRequest(model_name="m")), ("ModelMetadata", pb.ModelMetadataRequest(name="m"))],
)
async def test_a_bug_is_internal_over_grpc(
    channel: tuple[grpc.aio.Channel, Metrics, Loaded[Any]],
    method: str,
    message: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls, metrics, service = channel
    call: Any = calls.unary_unary(f"/{SERVICE}/{method}")
    with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as error:
        await call(message.SerializeToString())
    assert error.value.code() == grpc.StatusCode.INTERNAL
    assert SECRET not in str(error.value.details())
    assert SECRET in caplog.text
    assert counted(metrics, "grpc") == 1
    assert service.part is not None
    assert service.part.account.held == 0
