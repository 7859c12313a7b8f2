"""What goes through a front as it is, and what is sent a second time: the real picker and Envoy before made-up pods."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from bench.scraping import scraped
from fake_pod import FakePod
from fake_pod_front import RestFront, front_before, named
from server_process import eventually

from sponge_front.files import write_endpoints
from sponge_front.pods import parse_pod

pytestmark = pytest.mark.slow

PATH = "/v2/models/m/infer"


class RecordingPod(FakePod):
    """Answers with the headers of the request; or refuses, dies or waits."""

    def __init__(self) -> None:
        super().__init__("honest")
        self.does = "answer"
        self.left = 0
        self.goes_on = asyncio.Event()

    async def infer(self, request: web.Request) -> web.Response:
        """Answers, and counts the clients that leave before."""
        await request.read()
        await super().infer(request)
        if self.does == "refuse":
            return web.Response(status=503, headers={"x-sponge-elsewhere": "1"})
        if self.does == "pause":
            await self.goes_on.wait()
        if self.does == "die" and request.transport is not None:
            request.transport.abort()
        if self.does in ("die", "wait"):
            while request.transport is not None:  # noqa: ASYNC110 - nothing tells that the other end has left
                await asyncio.sleep(0.02)
            self.left += 1
        return web.json_response(dict(request.headers))


@dataclass(frozen=True)
class Site:
    front: RestFront
    pods: tuple[RecordingPod, RecordingPod]
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.front.http}{PATH}"

    async def status(self, body: bytes = b"{}", headers: dict[str, str] | None = None) -> int:
        async with self.session.post(self.url, data=body, headers=headers) as answer:
            return answer.status

    def asked(self) -> list[int]:
        return [pod.asked for pod in self.pods]


@asynccontextmanager
async def site(directory: Path, does: str = "answer", host: str = "127.0.0.1") -> AsyncIterator[Site]:
    pods = RecordingPod(), RecordingPod()
    for pod in pods:
        pod.does = does
    timeout = aiohttp.ClientTimeout(total=60)
    async with (
        pods[0].running(host) as first,
        pods[1].running(host) as second,
        aiohttp.ClientSession(timeout=timeout) as session,
        front_before([named(first, host), named(second, host)], directory) as front,
    ):
        yield Site(front, pods, session)


async def test_what_clients_say_goes_through(tmp_path: Path) -> None:
    said = {
        "x-sponge-slo-ms": "300",
        "x-sponge-slo-class": "gold",
        "x-sponge-sent-at": "1700000000.5",
        "x-sponge-accuracy-floor": "0.7",
        "x-llm-d-slo-ttft-ms": "-1",
        "x-slo-ttft-ms": "1e300",
        "x-request-timeout-seconds": "",
        "grpc-timeout": "5S",
        "authorization": "Bearer key",
        "traceparent": "00-1-2-01",
    }
    async with site(tmp_path) as found:
        async with found.session.post(found.url, data=b"{}", headers=said) as answer:
            heard = {name.lower(): value for name, value in (await answer.json()).items()}
        assert {name: heard.get(name) for name in said} == said
        # A client of HTTP/1.0, such as ab.
        reader, writer = await asyncio.open_connection("127.0.0.1", found.front.http)
        writer.write(b"POST %b HTTP/1.0\r\ncontent-length: 2\r\n\r\n{}" % PATH.encode())
        assert (await reader.readline()).split()[1] == b"200"
        writer.close()


@pytest.mark.parametrize("does", ["refuse", "die"])
async def test_no_request_is_sent_more_than_twice(tmp_path: Path, does: str) -> None:
    insisting = {"x-envoy-max-retries": "50", "x-envoy-retry-on": "5xx,reset,retriable-4xx"}
    async with site(tmp_path, does) as found:
        assert await found.status(headers=insisting) == 503
        assert found.asked() == [1, 1], "one attempt at each pod"


async def test_what_changes_a_pod_is_sent_once(tmp_path: Path) -> None:
    async with site(tmp_path, "die") as found:
        async with found.session.post(found.url.replace(PATH, "/v2/repository/models/m/load"), data=b"{}") as answer:
            assert answer.status == 503
        assert sum(found.asked()) == 1


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
async def test_pods_have_addresses_of_ipv6(tmp_path: Path) -> None:
    async with site(tmp_path, host="::1") as found:
        assert [await found.status() for _ in range(4)] == [200] * 4
        answered = 'sponge_front_requests_total{ending="answered"}'
        await asyncio.to_thread(eventually, lambda: found.front.metric(answered) == 4)


async def test_a_large_request_is_handed_on_up_to_a_size(tmp_path: Path) -> None:
    async with site(tmp_path, "refuse") as found:
        assert await found.status(bytes(900_000)) == 503
        assert found.asked() == [1, 1]
        # All of it reaches one pod, but it would take too much memory to keep it meanwhile.
        assert await found.status(bytes(9 << 20)) == 503
        assert sum(found.asked()) == 3


async def test_a_client_that_leaves_takes_its_request_along(tmp_path: Path) -> None:
    async with site(tmp_path, "wait") as found:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await found.status(headers={"x-sponge-slo-ms": "60000"})
        await asyncio.to_thread(eventually, lambda: sum(pod.left for pod in found.pods) == 1)
        cancelled = 'sponge_front_requests_total{ending="cancelled"}'
        await asyncio.to_thread(eventually, lambda: found.front.metric(cancelled) == 1)
        assert sum(found.asked()) == 1


async def test_a_pod_that_is_gone_from_the_list_gets_no_more_and_ends_what_it_has(tmp_path: Path) -> None:
    async with site(tmp_path, "pause") as found:
        under_way: list[asyncio.Task[int]] = []
        while 0 in found.asked():  # where the picker is late, two in a row may go to the same pod
            assert len(under_way) < 20
            under_way.append(asyncio.create_task(found.status()))
            await asyncio.to_thread(eventually, lambda: sum(found.asked()) == len(under_way))
        first, gone = found.asked()
        found.front.picker.kill()  # from now on Envoy takes turns among those in its files
        write_endpoints(found.front.directory, [parse_pod(found.front.pods[0])])
        await asyncio.to_thread(eventually, lambda: members(found.front) == 1)
        for pod in found.pods:
            pod.does = "answer"
        assert [await found.status() for _ in range(6)] == [200] * 6
        assert found.asked() == [first + 6, gone]
        for pod in found.pods:
            pod.goes_on.set()
        assert set(await asyncio.gather(*under_way)) == {200}


def members(front: RestFront) -> float:
    """Pods that Envoy has for REST."""
    name = 'envoy_cluster_membership_total{envoy_cluster_name="pods-http"}'
    return scraped(f"http://127.0.0.1:{front.status}/stats/prometheus")[name]
