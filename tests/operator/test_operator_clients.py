"""The client of the control port against a real HTTP server; the cache of pods."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from test_operator_status import snapshot

from sponge_core.control_api import ApplyAck, ApplyRequest, SourceReport, SourceRequest
from sponge_operator.clients.pods import PodCache
from sponge_operator.clients.server import ControlClient, ServerError, StaleVersionError, UnknownCallError

ACK = ApplyAck(version=3, cores_milli=500, thread_budget=1, batch_cap=8, now_s=1.0, waited_s=0.0)


class Port:
    """A control port that records what it was asked, and answers what the test says."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], str]] = []
        self.answer = web.json_response({})
        self.base_url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.seen.append((request.headers.get("Authorization", ""), dict(request.query), await request.text()))
        return self.answer


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    port = Port()
    app = web.Application()
    app.router.add_get("/control/v1/state", port.handle)
    app.router.add_post("/control/v1/apply", port.handle)
    app.router.add_route("*", "/control/v1/models/digits/source", port.handle)
    async with TestServer(app) as server:
        port.base_url = str(server.make_url("/")).rstrip("/")
        yield port


async def test_state(port: Port) -> None:
    port.answer = web.Response(text=snapshot(version=7).model_dump_json())
    async with ControlClient() as client:
        state = await client.state(port.base_url, "secret", since=6, wait_s=0.5)
    assert state.version == 7
    assert port.seen == [("Bearer secret", {"since": "6", "wait_s": "0.5"}, "")]


@pytest.mark.parametrize("wanted", [None, "file:///m.pt2"])
async def test_source(port: Port, wanted: str | None) -> None:
    report = SourceReport(serving="digits://", loading=wanted)
    port.answer = web.Response(text=report.model_dump_json())
    async with ControlClient() as client:
        assert await client.source(port.base_url, "secret", "digits", wanted) == report
    (_, _, body) = port.seen[0]
    assert body == ("" if wanted is None else SourceRequest(source=wanted).model_dump_json())


@pytest.mark.parametrize("status", [403, 404])
async def test_a_server_that_takes_no_source(port: Port, status: int) -> None:
    port.answer = web.json_response({"detail": "no"}, status=status)
    async with ControlClient() as client:
        with pytest.raises(UnknownCallError):
            await client.source(port.base_url, "secret", "digits", None)


async def test_apply(port: Port) -> None:
    port.answer = web.Response(text=ACK.model_dump_json())
    request = ApplyRequest(version=3, cores_milli=500, batch_cap=8)
    async with ControlClient() as client:
        assert await client.apply(port.base_url, "secret", request, 1.0) == ACK
    assert ApplyRequest.model_validate_json(port.seen[0][2]) == request


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (409, '{"detail": "version 3 is stale"}', StaleVersionError, "HTTP 409: version 3 is stale"),
        (503, '{"detail": "not ready: loading"}', ServerError, "HTTP 503: not ready: loading"),
        (500, "oops", ServerError, "HTTP 500: oops"),
        (200, '{"version": "x"}', ServerError, "another version"),
    ],
)
async def test_an_error_names_its_cause(
    port: Port, status: int, body: str, kind: type[Exception], message: str
) -> None:
    port.answer = web.Response(status=status, text=body)
    async with ControlClient() as client:
        with pytest.raises(kind, match=message):
            await client.apply(port.base_url, "secret", ApplyRequest(version=3, cores_milli=1, batch_cap=1), 1.0)


async def test_a_server_that_does_not_listen(unused_tcp_port: int) -> None:
    async with ControlClient() as client:
        with pytest.raises(ServerError, match="Cannot connect"):
            await client.state(f"http://127.0.0.1:{unused_tcp_port}", "secret")


def pod(version: int, service: str = "digits", uid: str = "1") -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"{service}-{uid}",
            "namespace": "team-a",
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {"serving.sponge.dev/service": service},
        }
    }


def test_the_newer_version_of_a_pod_is_kept() -> None:
    changes: list[str] = []
    cache = PodCache(changes.append)
    cache.update(pod(99))
    cache.update(pod(101))  # the answer to a patch
    cache.update(pod(100))  # the watch, late
    assert cache.get("1") == pod(101)
    assert changes == ["team-a/digits"] * 2


def test_pods_of_a_service() -> None:
    cache = PodCache(lambda _: None)
    for one in (pod(1, uid="2"), pod(2, uid="1"), pod(3, "other", "3")):
        cache.update(one)
    assert [p["metadata"]["uid"] for p in cache.of_service("team-a/digits")] == ["1", "2"]
    cache.remove(pod(9, uid="1"))
    cache.remove(pod(9, uid="1"))
    assert [p["metadata"]["uid"] for p in cache.of_service("team-a/digits")] == ["2"]


@pytest.mark.parametrize("labels", [{}, None, {"app": "x"}])
def test_a_pod_that_loses_its_label_is_nobodys(labels: dict[str, str] | None) -> None:
    changes: list[str] = []
    cache = PodCache(changes.append)
    cache.update(pod(1))
    cache.update(pod(2, uid="2"))
    released = pod(3)
    released["metadata"]["labels"] = labels
    cache.update(released)
    assert cache.get("1") is None
    assert [p["metadata"]["uid"] for p in cache.of_service("team-a/digits")] == ["2"]
    cache.update(released)
    cache.remove(released)
    assert changes == ["team-a/digits"] * 3


def test_a_pod_may_change_hands() -> None:
    changes: list[str] = []
    cache = PodCache(changes.append)
    cache.update(pod(1))
    cache.update(pod(2, "other"))
    assert (cache.of_service("team-a/digits"), cache.of_service("team-a/other")) == ([], [pod(2, "other")])
    assert changes == ["team-a/digits", "team-a/digits", "team-a/other"]
