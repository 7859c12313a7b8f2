"""Asking for a pod: what the API server is sent, how often, and how long a request waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from sponge_front.endpoint_slices import ApiAccess
from sponge_front.pods import Pod
from sponge_front.waker import MOST_WAITING, SETTLE_S, Waker

POD = Pod("a", "10.0.0.1", 8080, 8081, 9090)
PATH = "/apis/serving.sponge.dev/v1alpha1/namespaces/team-a/spongeservices/digits/status"


class ApiServer:
    """Takes patches of the status, or refuses them."""

    def __init__(self) -> None:
        self.patches: list[tuple[str, Any]] = []
        self.asked = asyncio.Event()
        self.refuses = False

    async def answer(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/merge-patch+json"
        self.patches.append((request.path, await request.json()))
        self.asked.set()
        return web.json_response({}, status=403 if self.refuses else 200)


@asynccontextmanager
async def waking() -> AsyncIterator[tuple[ApiServer, Waker]]:
    server, app = ApiServer(), web.Application()
    app.router.add_patch("/{path:.*}", server.answer)
    async with TestServer(app) as served, aiohttp.ClientSession() as session:
        yield server, Waker(session, ApiAccess(f"http://127.0.0.1:{served.port}", "team-a"), "team-a", "digits")


async def test_many_requests_ask_once_and_go_on_when_a_pod_is_there() -> None:
    async with waking() as (server, waker):
        waiting = [asyncio.create_task(waker.pod_within(30.0)) for _ in range(20)]
        await server.asked.wait()
        assert not any(task.done() for task in waiting)
        waker.keep([POD])
        await asyncio.gather(*waiting)
        ((path, patch),) = server.patches
        assert path == PATH
        assert list(patch) == ["status"]
        assert list(patch["status"]) == ["wake"]


async def test_a_request_waits_no_longer_than_it_may_also_where_asking_is_refused() -> None:
    async with waking() as (server, waker):
        server.refuses = True
        await waker.pod_within(0.05)
        await server.asked.wait()


async def test_once_the_pods_are_gone_again_requests_wait_again() -> None:
    async with waking() as (_, waker):
        waker.keep([POD])
        await waker.pod_within(SETTLE_S + 30)
        waker.keep([])
        waiting = asyncio.create_task(waker.pod_within(30.0))
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()


async def test_the_number_of_those_who_wait_is_bounded() -> None:
    async with waking() as (_, waker):
        waiting = [asyncio.create_task(waker.pod_within(30.0)) for _ in range(MOST_WAITING)]
        await asyncio.sleep(0)
        await waker.pod_within(30.0)
        assert not any(task.done() for task in waiting)
        waker.keep([POD])
        await asyncio.gather(*waiting)
