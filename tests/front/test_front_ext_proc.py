"""The picker over gRPC, as a gateway asks it: the messages of the endpoint picker protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sponge_core.routing.rules.least import LeastQueue
from sponge_front.ext_proc import SERVICE, PickerServer
from sponge_front.metrics import FrontMetrics
from sponge_front.picker import Picker
from sponge_front.pods import Pod
from sponge_front.protos import ext_proc_pb2 as pb
from sponge_front.waker import Waker

POD = Pod("a", "10.0.0.1", 8080, 8081, 9090)


class Site:
    def __init__(self, directory: Path) -> None:
        self.address = f"unix:{directory}/picker.sock"
        self.metrics = FrontMetrics()
        self.picker = Picker("front", LeastQueue(lambda: 0.0), clock=lambda: 0.0, wall_clock=lambda: 0.0)
        self.picker.keep([POD])
        self.waker: Waker | None = None

    def ended(self) -> dict[str, float]:
        samples = next(iter(self.metrics.requests.collect())).samples
        return {each.labels["ending"]: each.value for each in samples if each.name.endswith("_total") and each.value}


class Waits:
    """Stands for `Waker`: a pod comes at once, or never."""

    def __init__(self, site: Site, comes: bool) -> None:
        self._site = site
        self._comes = comes
        self.asked: list[float] = []

    async def pod_within(self, left_s: float) -> None:
        self.asked.append(left_s)
        if self._comes:
            self._site.picker.keep([POD])


@asynccontextmanager
async def serving(
    directory: Path, waker: Callable[[Site], Any] = lambda _: None, *, strict: bool = False
) -> AsyncIterator[tuple[Site, grpc.aio.Channel]]:
    site = Site(directory)
    site.waker = waker(site)
    async with (
        PickerServer(site.picker, site.metrics, site.address, site.waker, strict=strict),
        grpc.aio.insecure_channel(site.address) as channel,
    ):
        yield site, channel


def stream(channel: grpc.aio.Channel) -> Any:
    return channel.stream_stream(
        f"/{SERVICE}/Process",
        request_serializer=pb.ProcessingRequest.SerializeToString,
        response_deserializer=pb.ProcessingResponse.FromString,
    )()


def request(method: str = "POST", raw: bool = True) -> pb.ProcessingRequest:
    """The headers as Envoy sends them, or in the older form with `value` instead of `raw_value`."""
    headers = {":method": method, ":path": "/v2/models/m/infer", "content-type": "application/json"}
    return pb.ProcessingRequest(
        request_headers=pb.HttpHeaders(
            headers=pb.HeaderMap(
                headers=[
                    pb.HeaderValue(key=name, raw_value=value.encode()) if raw else pb.HeaderValue(key=name, value=value)
                    for name, value in headers.items()
                ]
            )
        )
    )


def response(status: str, address: str = POD.http) -> pb.ProcessingRequest:
    answered_by = pb.Struct(fields={"upstream.address": pb.Value(string_value=address)})
    return pb.ProcessingRequest(
        response_headers=pb.HttpHeaders(
            headers=pb.HeaderMap(headers=[pb.HeaderValue(key=":status", raw_value=status.encode())])
        ),
        attributes={"envoy.filters.http.ext_proc": answered_by},
    )


async def test_the_pod_is_in_the_header_and_in_the_metadata(tmp_path: Path) -> None:
    async with serving(tmp_path) as (site, channel):
        for raw in (True, False):
            call = stream(channel)
            await call.write(request(raw=raw))
            answer = await call.read()
            mutation = answer.request_headers.response.header_mutation
            headers = {each.header.key: each.header.raw_value for each in mutation.set_headers}
            assert headers["x-gateway-destination-endpoint"] == b"10.0.0.1:8080"
            assert headers["x-sponge-front"].startswith(b"front ")
            assert {each.append_action for each in mutation.set_headers} == {
                pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
            }
            spaces = answer.dynamic_metadata.fields
            destination = spaces["envoy.lb"].struct_value.fields["x-gateway-destination-endpoint"]
            assert destination.string_value == "10.0.0.1:8080"
            await call.write(response("200"))
            assert (await call.read()).HasField("response_headers")
            await call.done_writing()
            assert await call.read() == grpc.aio.EOF
        assert site.ended() == {"answered": 2}


async def test_a_stream_that_ends_early_is_a_request_without_its_client(tmp_path: Path) -> None:
    async with serving(tmp_path) as (site, channel):
        call = stream(channel)
        await call.write(request())
        await call.read()
        await call.done_writing()
        assert await call.read() == grpc.aio.EOF
        assert site.ended() == {"cancelled": 1}


async def test_the_pod_that_answered_tells_who_failed(tmp_path: Path) -> None:
    async with serving(tmp_path) as (site, channel):
        for status, address in (("500", POD.http), ("503", POD.http), ("200", "10.0.0.2:8080"), ("503", "")):
            call = stream(channel)
            for message in (request(), response(status, address)):
                await call.write(message)
                await call.read()
            await call.done_writing()
            await call.read()
        assert site.ended() == {"failed": 2, "refused": 2}


async def test_what_is_not_picked_passes_as_it_is(tmp_path: Path) -> None:
    async with serving(tmp_path) as (site, channel):
        call = stream(channel)
        await call.write(request("GET"))
        answer = await call.read()
        assert answer.HasField("request_headers")
        assert not answer.request_headers.response.header_mutation.set_headers
        assert not answer.dynamic_metadata.fields
        await call.write(response("200"))
        assert (await call.read()).HasField("response_headers")
        assert site.ended() == {}


async def test_health_is_served(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, channel):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("comes", [True, False])
async def test_a_request_waits_for_the_first_pod_and_the_proxy_is_told(tmp_path: Path, comes: bool) -> None:
    async with serving(tmp_path, lambda site: Waits(site, comes)) as (site, channel):
        site.picker.keep([])
        call = stream(channel)
        await call.write(request())
        longer = (await call.read()).override_message_timeout
        assert longer.seconds + longer.nanos / 1e9 == pytest.approx(2.0)  # of the SLO, until one is known, and a margin
        answer = await call.read()
        assert answer.request_headers.HasField("response") == comes
        assert isinstance(site.waker, Waits)
        assert site.waker.asked == [1.0]


async def test_nothing_waits_where_there_is_a_pod_or_no_inference(tmp_path: Path) -> None:
    async with serving(tmp_path, lambda site: Waits(site, comes=True)) as (site, channel):
        for pods, method in (([POD], "POST"), ([], "GET")):
            site.picker.keep(pods)
            call = stream(channel)
            await call.write(request(method))
            assert (await call.read()).HasField("request_headers")
        assert isinstance(site.waker, Waits)
        assert site.waker.asked == []
