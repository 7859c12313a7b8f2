"""The rules of the endpoint picker protocol, version 1.0, message by message."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates_kit import Authority, tls_secret
from test_front_ext_proc import POD, Site, request, response, serving, stream

from sponge_cluster.layout import free_port
from sponge_core.errors import SpongeError
from sponge_front.ext_proc import PickerServer
from sponge_front.picker_tls import picker_credentials
from sponge_front.pods import Pod
from sponge_front.protos import ext_proc_pb2 as pb
from sponge_front.settings import TlsFiles

OTHER = Pod("b", "fd00::1", 8080, 8081, 9090)
DESTINATION = "x-gateway-destination-endpoint"
STREAMED = pb.ProtocolConfiguration(
    request_body_mode=pb.FULL_DUPLEX_STREAMED, response_body_mode=pb.FULL_DUPLEX_STREAMED
)


def within(message: pb.ProcessingRequest, *addresses: str) -> pb.ProcessingRequest:
    """The same, with the subset of endpoints that the gateway allows."""
    values = [pb.Value(string_value=address) for address in addresses]
    listed = pb.Value(list_value=pb.ListValue(values=values))
    subset = pb.Struct(fields={"x-gateway-destination-endpoint-subset": listed})
    message.metadata_context.filter_metadata["envoy.lb.subset_hint"].CopyFrom(subset)
    return message


def served(message: pb.ProcessingRequest, address: str) -> pb.ProcessingRequest:
    """A response without Envoy's attributes, with the endpoint that served the request."""
    message.attributes.clear()
    if address:
        fields = {"x-gateway-destination-endpoint-served": pb.Value(string_value=address)}
        message.metadata_context.filter_metadata["envoy.lb"].CopyFrom(pb.Struct(fields=fields))
    return message


def destination(answer: pb.ProcessingResponse) -> str:
    """Where the request goes: the same in the header and in the metadata."""
    mutation = answer.request_headers.response.header_mutation
    headers = {each.header.key: each.header.raw_value.decode() for each in mutation.set_headers}
    told = answer.dynamic_metadata.fields["envoy.lb"].struct_value.fields[DESTINATION].string_value
    assert headers[DESTINATION] == told
    return told


async def asked(channel: Any, *messages: pb.ProcessingRequest) -> list[pb.ProcessingResponse]:
    call = stream(channel)
    answers = []
    for message in messages:
        await call.write(message)
        answers.append(await call.read())
    await call.done_writing()
    await call.read()
    return answers


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_every_request_gets_a_destination(tmp_path: Path, method: str) -> None:
    async with serving(tmp_path, strict=True) as (site, channel):
        site.picker.keep([POD, OTHER])
        found = {destination((await asked(channel, request(method)))[0]) for _ in range(8)}
        assert found <= {"10.0.0.1:8080", "[fd00::1]:8080"}
        assert method == "POST" or len(found) == 2, "where any will do, they take turns"


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        (["10.0.0.1:8080"], "10.0.0.1:8080"),
        (["[fd00::1]:8080", "10.9.9.9:8080"], "[fd00::1]:8080"),
        (["fd00::1"], "[fd00::1]:8080"),
        (["10.9.9.9:8080"], None),
        ([], None),
    ],
)
async def test_the_subset_of_the_gateway_is_kept_to(
    tmp_path: Path, method: str, subset: list[str], expected: str | None
) -> None:
    async with serving(tmp_path, strict=True) as (site, channel):
        site.picker.keep([POD, OTHER])
        for _ in range(4):
            (answer,) = await asked(channel, within(request(method), *subset))
            if expected is None:
                assert answer.immediate_response.status.code == 503
            else:
                assert destination(answer) == expected


async def test_without_a_pod_the_answer_is_503_and_unavailable(tmp_path: Path) -> None:
    async with serving(tmp_path, strict=True) as (site, channel):
        site.picker.keep([])
        call = request()
        (answer,) = await asked(channel, call)
        assert answer.immediate_response.status.code == 503
        assert not answer.immediate_response.HasField("grpc_status")
        headers = call.request_headers.headers.headers
        headers[1].raw_value, headers[2].raw_value = b"/inference.GRPCInferenceService/ModelInfer", b"application/grpc"
        (answer,) = await asked(channel, call)
        assert answer.immediate_response.grpc_status.status == 14
        assert unpicked(site) == {"no_pod": 2, "not_inference": 0}


async def test_the_proxy_beside_the_picker_knows_the_pods_itself(tmp_path: Path) -> None:
    async with serving(tmp_path) as (site, channel):
        site.picker.keep([])
        for method in ("POST", "GET"):
            (answer,) = await asked(channel, request(method))
            assert answer == pb.ProcessingResponse(request_headers=pb.HeadersResponse())
        assert unpicked(site) == {"no_pod": 1, "not_inference": 1}


@pytest.mark.parametrize(
    ("address", "ending"), [(POD.http, "answered"), (OTHER.http, "refused"), ("", "answered")], ids=["it", "other", ""]
)
async def test_the_endpoint_that_served_is_taken_from_the_gateway(tmp_path: Path, address: str, ending: str) -> None:
    async with serving(tmp_path, strict=True) as (site, channel):
        await asked(channel, request(), served(response("200"), address))
        assert site.ended() == {ending: 1}


@pytest.mark.parametrize("config", [STREAMED, pb.ProtocolConfiguration()], ids=["duplex", "else"])
async def test_bodies_and_trailers_pass_as_they_are(tmp_path: Path, config: pb.ProtocolConfiguration) -> None:
    first = request()
    first.protocol_config.CopyFrom(config)
    parts = [
        pb.ProcessingRequest(request_body=pb.HttpBody(body=b"abc")),
        pb.ProcessingRequest(request_body=pb.HttpBody(body=b"d", end_of_stream=True)),
        pb.ProcessingRequest(request_trailers=pb.HttpTrailers()),
        response("200"),
        pb.ProcessingRequest(response_body=pb.HttpBody(body=b"xyz", end_of_stream=True)),
        pb.ProcessingRequest(response_trailers=pb.HttpTrailers()),
    ]
    async with serving(tmp_path, strict=True) as (site, channel):
        picked, *answers = await asked(channel, first, *parts)
        assert destination(picked) == POD.http
        assert [answer.WhichOneof("response") for answer in answers] == [part.WhichOneof("request") for part in parts]
        for answer, part in zip(answers, parts, strict=True):
            for kind in ("request_body", "response_body"):
                if part.HasField(kind):
                    common = getattr(answer, kind).response
                    back = common.body_mutation.streamed_response
                    sent = getattr(part, kind)
                    assert common.HasField("body_mutation") == (config is STREAMED)
                    assert config is not STREAMED or (back.body, back.end_of_stream) == (sent.body, sent.end_of_stream)
        assert site.ended() == {"answered": 1}


def unpicked(site: Site) -> dict[str, float]:
    samples = next(iter(site.metrics.unpicked.collect())).samples
    return {each.labels["why"]: each.value for each in samples if each.name.endswith("_total")}


async def test_the_port_for_gateways_speaks_tls_and_follows_its_files(tmp_path: Path) -> None:
    authority = Authority()
    first, second = authority.issue(), authority.issue()
    secret = tls_secret(tmp_path / "secret", first)
    credentials = picker_credentials(TlsFiles(secret.path("tls.crt"), secret.path("tls.key")))
    site, port = Site(tmp_path), free_port()

    async def shown() -> bytes:
        _, writer = await asyncio.open_connection("localhost", port, ssl=authority.client())
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
        writer.close()
        return certificate

    async with PickerServer(site.picker, site.metrics, f"localhost:{port}", strict=True, credentials=credentials):
        trust = grpc.ssl_channel_credentials(authority.pem)
        async with grpc.aio.secure_channel(f"localhost:{port}", trust) as channel:
            assert destination((await asked(channel, request()))[0]) == POD.http
        assert await shown() == first.der
        secret.put(tls_crt=second.cert, tls_key=second.key)
        assert await shown() == second.der
        secret.put(tls_crt=first.cert, tls_key=second.key)
        assert await shown() == second.der, "what is no pair changes nothing"
    with pytest.raises(SpongeError, match=r"--picker-key-file .* is not the key of"):
        picker_credentials(TlsFiles(secret.path("tls.crt"), secret.path("tls.key")))
