"""A gateway of somebody else: Envoy as a controller for InferencePools sets it up, with the picker behind its external
processing filter. It knows no pod but those that the picker names. The pods are made up, and say who they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from bench.live_front import start_envoy

from sponge_cluster.layout import free_port
from sponge_core.routing.rules.least import LeastQueue
from sponge_front.ext_proc import PickerServer
from sponge_front.metrics import FrontMetrics
from sponge_front.picker import Picker
from sponge_front.pods import Pod

pytestmark = pytest.mark.slow

TYPES = "type.googleapis.com/envoy"
BODY_MODES = ["NONE", "BUFFERED", "FULL_DUPLEX_STREAMED"]


def bootstrap(port: int, picker: int, body_mode: str, subset: Sequence[str] | None) -> dict[str, Any]:
    """The gateway. `subset`: the endpoints that it allows; None: all."""
    hint = {"x-gateway-destination-endpoint-subset": subset}
    allowed = {"metadata": [{"metadata_namespace": "envoy.lb.subset_hint", "value": hint}]}
    picking = {
        "@type": f"{TYPES}.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}},
        "message_timeout": "2s",
        "processing_mode": {
            "request_header_mode": "SEND",
            "response_header_mode": "SEND",
            "request_body_mode": body_mode,
            "response_body_mode": body_mode,
            # The mode for whole bodies asks for them.
            "request_trailer_mode": "SEND" if body_mode == "FULL_DUPLEX_STREAMED" else "SKIP",
            "response_trailer_mode": "SEND" if body_mode == "FULL_DUPLEX_STREAMED" else "SKIP",
        },
        "metadata_options": {
            "forwarding_namespaces": {"untyped": ["envoy.lb", "envoy.lb.subset_hint"]},
            "receiving_namespaces": {"untyped": ["envoy.lb"]},
        },
    }
    filters = [
        ("ext_proc", picking),
        ("router", {"@type": f"{TYPES}.extensions.filters.http.router.v3.Router"}),
    ]
    if subset is not None:
        filters.insert(
            0, ("set_metadata", {"@type": f"{TYPES}.extensions.filters.http.set_metadata.v3.Config", **allowed})
        )
    manager = {
        "@type": f"{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "pool",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "pool", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [{"name": f"envoy.filters.http.{name}", "typed_config": config} for name, config in filters],
    }
    connections = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    http2 = {
        "@type": f"{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "address": address(port),
                    "filter_chains": [{"filters": [connections]}],
                }
            ],
            "clusters": [
                {
                    "name": "pool",
                    "type": "ORIGINAL_DST",
                    "lb_policy": "CLUSTER_PROVIDED",
                    "connect_timeout": "2s",
                    "original_dst_lb_config": {
                        "use_http_header": True,
                        "http_header_name": "x-gateway-destination-endpoint",
                    },
                },
                {
                    "name": "picker",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "picker",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(picker)}}]}],
                    },
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
                    },
                },
            ],
        }
    }


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


class Site:
    """Two pods on addresses of their own, and a picker for gateways."""

    def __init__(self) -> None:
        self.port = free_port()
        self.hosts = ("127.0.0.1", "127.0.0.2")
        self.pods = [Pod(host, host, self.port, 1, 1) for host in self.hosts]
        self.metrics = FrontMetrics()
        self.picker = Picker("front", LeastQueue(lambda: 0.0), clock=time.monotonic, wall_clock=time.time)
        self.picker.keep(self.pods)
        self.picker_port = free_port()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for pod in self.pods:
                app = web.Application(client_max_size=1 << 24)
                app.router.add_route("*", "/{path:.*}", _answer(pod))
                runner = web.AppRunner(app, shutdown_timeout=0.1)
                await runner.setup()
                stack.push_async_callback(runner.cleanup)
                await web.TCPSite(runner, pod.host, pod.http_port).start()
            address = f"127.0.0.1:{self.picker_port}"
            await stack.enter_async_context(PickerServer(self.picker, self.metrics, address, strict=True))
            yield

    async def counted(self, number: int) -> None:
        """Waits until so many requests have ended for the picker, which hears of it after the client."""
        until = time.monotonic() + 20
        while sum(self.endings().values()) < number:
            assert time.monotonic() < until, "the picker has not heard of the end"
            await asyncio.sleep(0.01)

    def endings(self) -> dict[str, float]:
        samples = next(iter(self.metrics.requests.collect())).samples
        return {each.labels["ending"]: each.value for each in samples if each.name.endswith("_total") and each.value}


def _answer(pod: Pod) -> Any:
    async def answer(request: web.Request) -> web.Response:
        body = await request.read()
        said = {"pod": pod.host, "bytes": len(body), "front": request.headers.get("x-sponge-front", "")}
        return web.json_response(said)

    return answer


class Gateway:
    """One that runs."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._url = f"http://127.0.0.1:{port}/v2/models/m"

    async def ask(self) -> tuple[int, str]:
        """Status and pod of a request that is no inference."""
        async with self._session.get(self._url) as answer:
            return answer.status, (await answer.json())["pod"] if answer.status == 200 else ""

    async def infer(self, size: int = 100) -> tuple[int, Any]:
        """Status of an inference with so many bytes, and what the pod says of it."""
        async with self._session.post(f"{self._url}/infer", data=b"x" * size) as answer:
            return answer.status, await answer.json() if answer.status == 200 else {}


@contextlib.asynccontextmanager
async def gateway(
    folder: Path, picker: int, body_mode: str = "NONE", subset: Sequence[str] | None = None
) -> AsyncIterator[Gateway]:
    port = free_port()
    (folder / "envoy.json").write_text(json.dumps(bootstrap(port, picker, body_mode, subset)))
    with (folder / "log").open("wb") as log:
        process = start_envoy(folder, log)
        try:
            async with aiohttp.ClientSession() as session:
                found, until = Gateway(session, port), time.monotonic() + 30
                while not await _listens(found):
                    assert time.monotonic() < until, (folder / "log").read_text()[-500:]
                    await asyncio.sleep(0.02)
                yield found
        finally:
            process.kill()
            process.wait()


async def _listens(found: Gateway) -> bool:
    with contextlib.suppress(aiohttp.ClientConnectionError):
        await found.ask()
        return True
    return False


@pytest.mark.parametrize("body_mode", BODY_MODES)
async def test_requests_go_where_the_picker_says_and_their_bodies_arrive(tmp_path: Path, body_mode: str) -> None:
    site = Site()
    async with site.running(), gateway(tmp_path, site.picker_port, body_mode) as found:
        for number, size in enumerate((100, 0, 500_000), 1):
            status, said = await found.infer(size)
            assert (status, said["bytes"]) == (200, size)
            assert said["front"].startswith("front ")
            await site.counted(number)
        assert site.endings() == {"answered": 3}, "an answer is the chosen pod's"
        assert {await found.ask() for _ in range(4)} == {(200, host) for host in site.hosts}


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        (["127.0.0.2:8080"], (200, "127.0.0.2")),
        (["10.9.9.9:8080", "127.0.0.1:8080"], (200, "127.0.0.1")),
        (["10.9.9.9:8080"], (503, "")),
        ([], (503, "")),
    ],
)
async def test_a_subset_of_the_gateway_is_kept_to(tmp_path: Path, subset: list[str], expected: tuple[int, str]) -> None:
    site = Site()
    async with site.running(), gateway(tmp_path, site.picker_port, subset=subset) as found:
        for _ in range(3):
            status, said = await found.infer()
            assert (status, said.get("pod", "")) == expected
            assert await found.ask() == expected


async def test_without_a_pod_and_without_a_picker_a_request_is_refused(tmp_path: Path) -> None:
    site = Site()
    site.picker.keep([])
    async with site.running(), gateway(tmp_path, site.picker_port) as found:
        assert (await found.infer())[0] == (await found.ask())[0] == 503
    async with gateway(tmp_path, free_port()) as found:
        assert (await found.infer())[0] >= 500
