"""The pods of a Service: from EndpointSlices, and from an API server that comes and goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sponge_core.errors import SpongeError
from sponge_front.endpoint_slices import ApiAccess, EndpointSlices, in_cluster, pods_of
from sponge_front.pods import Pod, parse_pod

PORTS = [{"name": "http", "port": 8080}, {"name": "grpc", "port": 8081}, {"name": "control", "port": 9090}]


def endpoint(number: int, **conditions: bool) -> dict[str, Any]:
    return {
        "addresses": [f"10.0.0.{number}"],
        "conditions": conditions,
        "targetRef": {"kind": "Pod", "name": f"pod-{number}"},
    }


def slice_of(name: str, *endpoints: dict[str, Any], ports: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"metadata": {"name": name}, "ports": PORTS if ports is None else ports, "endpoints": list(endpoints)}


def pod(number: int) -> Pod:
    return Pod(f"pod-{number}", f"10.0.0.{number}", 8080, 8081, 9090)


@pytest.mark.parametrize(
    ("slices", "numbers"),
    [
        ([], []),
        ([slice_of("s", endpoint(2, ready=True), endpoint(1, ready=True))], [1, 2]),
        ([slice_of("s", endpoint(1, ready=True), endpoint(2, ready=False))], [1]),
        ([slice_of("s", endpoint(1))], [1]),  # an unknown condition counts as ready
        ([slice_of("s", endpoint(1, ready=True), endpoint(2, ready=False, serving=True, terminating=True))], [1]),
        # Where all pods leave, those that still serve are better than none.
        ([slice_of("s", *(endpoint(n, ready=False, serving=True, terminating=True) for n in (1, 2)))], [1, 2]),
        ([slice_of("s", endpoint(1, ready=False, serving=False, terminating=True))], []),
        ([slice_of("s", endpoint(1, ready=False, serving=True, terminating=False))], []),
        ([slice_of("s", endpoint(1)), slice_of("t", endpoint(1), endpoint(2))], [1, 2]),  # in both while it moves
        ([slice_of("s", endpoint(1), ports=PORTS[:2])], []),
        ([{"metadata": {"name": "s"}, "ports": None, "endpoints": None}], []),
        ([slice_of("s", {"addresses": [], "conditions": None})], []),
        ([slice_of("s", endpoint(1), {"addresses": ["example.org"]})], [1]),
    ],
)
def test_endpoints_that_serve_are_the_pods(slices: list[dict[str, Any]], numbers: list[int]) -> None:
    assert pods_of(slices) == [pod(number) for number in numbers]


class ApiServer:
    """Lists slices, and sends the events of `push` to whoever watches."""

    def __init__(self) -> None:
        self.slices: list[dict[str, Any]] = []
        self.lists = 0
        self.fails = 0
        self.tokens: set[str] = set()
        self._events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    def push(self, kind: str, each: dict[str, Any]) -> None:
        self._events.put_nowait({"type": kind, "object": each})

    def end_watch(self) -> None:
        self._events.put_nowait(None)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.tokens.add(request.headers.get("authorization", ""))
        assert request.query["labelSelector"] == "kubernetes.io/service-name=demo"
        if self.fails:
            self.fails -= 1
            return web.Response(status=503)
        if "watch" not in request.query:
            self.lists += 1
            return web.json_response({"metadata": {"resourceVersion": "7"}, "items": self.slices})
        response = web.StreamResponse()
        await response.prepare(request)
        while (change := await self._events.get()) is not None:
            await response.write(json.dumps(change).encode() + b"\n")
        return response

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/apis/discovery.k8s.io/v1/namespaces/here/endpointslices", self.answer)
        async with TestServer(app) as server:
            yield f"http://127.0.0.1:{server.port}"


class Following:
    """EndpointSlices that follow an API server; `told` gets the pods."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[list[Pod]] = asyncio.Queue()

    @asynccontextmanager
    async def of(self, api: ApiServer, token_file: Path | None = None) -> AsyncIterator[None]:
        async with api.running() as url, aiohttp.ClientSession() as session:
            access = ApiAccess(url, "here", token_file)
            following = EndpointSlices(session, access, "here", "demo", self.told.put_nowait)
            task = asyncio.create_task(following.follow())
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait((task,))

    async def next(self) -> list[Pod]:
        return await asyncio.wait_for(self.told.get(), 20)


async def test_changes_are_told_and_what_is_no_change_is_not(tmp_path: Path) -> None:
    api, following = ApiServer(), Following()
    (tmp_path / "token").write_text("one\n")
    api.slices = [slice_of("s", endpoint(1))]
    async with following.of(api, tmp_path / "token"):
        assert await following.next() == [pod(1)]
        api.push("MODIFIED", slice_of("s", endpoint(1, ready=True)))
        api.push("ADDED", slice_of("t", endpoint(2)))
        assert await following.next() == [pod(1), pod(2)]
        api.push("DELETED", slice_of("s"))
        assert await following.next() == [pod(2)]
        (tmp_path / "token").write_text("two\n")
        api.slices = [slice_of("t", endpoint(2)), slice_of("u", endpoint(3))]
        api.end_watch()
        assert await following.next() == [pod(2), pod(3)]
    assert api.tokens == {"Bearer one", "Bearer two"}
    assert api.lists == 2


async def test_a_watch_that_is_too_old_lists_again() -> None:
    api, following = ApiServer(), Following()
    async with following.of(api):
        assert await following.next() == []
        api.slices = [slice_of("s", endpoint(1))]
        api.push("ERROR", {"code": 410})
        assert await following.next() == [pod(1)]


async def test_a_slice_may_be_as_large_as_kubernetes_allows() -> None:
    api, following = ApiServer(), Following()
    large = slice_of("s", *(endpoint(number) for number in range(1, 256)))
    large["metadata"]["annotations"] = {"note": "x" * 1_250_000}
    async with following.of(api):
        assert await following.next() == []
        api.push("ADDED", large)
        assert len(await following.next()) == 255
        assert api.lists == 1
        # One that is still larger is no reason to stop.
        large["metadata"]["annotations"] = {"note": "x" * 5_000_000}
        api.slices = [slice_of("s", endpoint(1))]
        api.push("MODIFIED", large)
        assert await following.next() == [pod(1)]


async def test_an_api_server_that_refuses_is_asked_again() -> None:
    api, following = ApiServer(), Following()
    api.fails = 2
    api.slices = [slice_of("s", endpoint(1))]
    async with following.of(api):
        assert await following.next() == [pod(1)]


def test_a_pod_finds_the_api_server_by_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(SpongeError, match="outside of a cluster, give the pods with --pod"):
        in_cluster(tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    with pytest.raises(SpongeError, match="service account"):
        in_cluster(tmp_path)


def test_a_pod_on_the_command_line() -> None:
    found = parse_pod("127.0.0.1,8080,8081,9090")
    assert (found.http, found.grpc, found.control) == ("127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:9090")
    assert parse_pod("::1,80,81,82").http == "[::1]:80"
    assert parse_pod("fd00:0:0::0A,80,81,82").http == "[fd00::a]:80", "as the proxy names it"
    for wrong in ("127.0.0.1", "127.0.0.1,80,81", "::1,80,81,x", "::1,80,81,0", "::1,80,81,65536", "::1,80,81,²"):
        with pytest.raises(SpongeError, match="write ADDRESS,HTTP_PORT,GRPC_PORT,CONTROL_PORT"):
            parse_pod(wrong)
    for wrong in (",80,81,82", "localhost,80,81,82", "[::1],80,81,82", "10.0.0.300,80,81,82"):
        with pytest.raises(SpongeError, match="is no IP address; write one"):
            parse_pod(wrong)
