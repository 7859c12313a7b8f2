"""Strangers before a real server: requests that would cost a careless one seconds, gigabytes or lanes."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from server_process import Reply, ServerProcess

from sponge_server.protocol.grpc_service import SERVICE
from sponge_server.protos import inference_pb2 as pb

pytestmark = pytest.mark.torch

MIB = 1 << 20
HUGE = 2**64 - 1
ACCOUNT = 64 * MIB
GOOD: dict[str, Any] = {"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}
PATH = "/v2/models/digits/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = ("--model", "digits=python://digits_shaped:factory", "--slo-ms", "20000")
    server = ServerProcess(tmp_path_factory.mktemp("s"), *options, "--max-queue-bytes", str(ACCOUNT))
    yield server
    assert server.metric('sponge_lane_crashes_total{model="digits"}') == 0
    assert server.metric("sponge_request_bytes") == 0
    assert server.stop() == 0


@pytest.fixture(autouse=True)
def good_requests_go_on(server: ServerProcess) -> Iterator[None]:
    yield
    assert server.infer("digits", {"inputs": [GOOD]}).status == 200


def one(**changes: Any) -> dict[str, Any]:
    return {"inputs": [GOOD | changes]}


def numbers(item: str, size: int) -> bytes:
    count = size // len(item)
    head = f'{{"inputs":[{{"name":"input","datatype":"FP32","shape":[1,{count}],"data":['
    return (head + (item * count)[:-1] + "]}]}").encode()


ITEM = json.dumps({"name": "input", "datatype": "FP32", "shape": [1], "data": [1]}) + ","
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "sent",
    [
        one(shape=[HUGE] * 300, data=[]),
        one(shape=[HUGE] * 20_000, data=[]),
        one(shape=[HUGE, 0], data=[]),
        one(shape=[1] * 9, data=[1]),
        one(datatype="BYTES", shape=[2_000_000], data=[""]),
        one(datatype="BYTES", data=[""] * 100_000),
        {"inputs": [GOOD], "outputs": [{"name": "logits"}] * 3000},
        {"inputs": [GOOD], "outputs": [{"name": "logits", "parameters": {"classification": 1000}}] * 300},
        numbers("0.123456789,", 7 * MIB),
        numbers("[1],", 7 * MIB),
        numbers("1,", 9 * MIB),
        ('{"inputs":[' + (ITEM * (4 * MIB // len(ITEM)))[:-1] + "]}").encode(),
        DEEP.encode(),
        ('{"inputs":[{"name":"input","datatype":"FP32","shape":[1],"data":[' + DEEP).encode(),
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        json.dumps(one(data=[0.5] * 64)).replace("0.5", "NaN", 1).encode(),
        json.dumps(one(data=[0.5] * 64)).replace("0.5", "1e999", 1).encode(),
    ],
    ids=lambda sent: repr(sent)[:60],
)
def test_what_the_model_cannot_use_is_the_senders_fault(server: ServerProcess, sent: Any) -> None:
    reply = server.infer("digits", sent)
    assert 400 <= reply.status < 500
    assert reply.json["error"] == reply.json["detail"]
    assert len(reply.body) < 4096


def binary(server: ServerProcess, entry: dict[str, Any], data: bytes) -> Reply:
    head = json.dumps({"inputs": [entry | {"parameters": {"binary_data_size": len(data)}}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return server.request(server.data + PATH, head + data, headers)


@pytest.mark.parametrize(("name", "shape"), [("input", [1]), ("input", [2_000_000]), ("image", [64])])
def test_strings_are_not_unpacked_beyond_their_count(server: ServerProcess, name: str, shape: list[int]) -> None:
    entry = {"name": name, "datatype": "BYTES", "shape": shape}
    assert binary(server, entry, bytes(8_000_000)).status == 400


def test_both_forms_of_an_output_are_one_answer_of_usual_size(server: ServerProcess) -> None:
    ranked = {"name": "logits", "parameters": {"classification": 10**9}}
    reply = server.infer("digits", {"inputs": [GOOD], "outputs": [{"name": "logits"}, ranked]})
    assert [output["shape"] for output in reply.json["outputs"]] == [[1, 10], [1, 10]]


def infer(channel: grpc.Channel, message: bytes) -> str:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/ModelInfer")
    try:
        call(message, timeout=60)
    except grpc.RpcError as error:
        code: str = error.code().name
        return code
    return "OK"


def message(**changes: Any) -> pb.ModelInferRequest:
    entry = {"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8]} | changes
    return pb.ModelInferRequest(model_name="digits", inputs=[entry])


def many_outputs() -> bytes:
    given = message(contents={"fp32_contents": [0.5] * 64})
    for _ in range(3000):
        given.outputs.add(name="logits")
    return given.SerializeToString()


@pytest.mark.parametrize(
    "make",
    [
        lambda: message(shape=[2**62] * 300).SerializeToString(),
        lambda: message(shape=[2**62] * 20_000).SerializeToString(),
        lambda: message(shape=[1], contents={"fp32_contents": [0.5] * MIB}).SerializeToString(),
        lambda: message(datatype="BYTES", contents={"bytes_contents": [b""] * 200_000}).SerializeToString(),
        lambda: message().SerializeToString() + b"\x2a\0" * MIB,
        lambda: message().SerializeToString() + b"\x3a\0" * MIB,
        many_outputs,
    ],
)
def test_messages_are_bounded_as_bodies_are(server: ServerProcess, make: Callable[[], bytes]) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        assert infer(channel, make()) == "INVALID_ARGUMENT"
        assert infer(channel, message(contents={"fp32_contents": [0.5] * 64}).SerializeToString()) == "OK"


@pytest.mark.parametrize(("size", "codes"), [(48 * MIB, {"RESOURCE_EXHAUSTED"}), (15 * MIB, {"INVALID_ARGUMENT"})])
@pytest.mark.parametrize("channels", [1, 6])
def test_large_messages_side_by_side_stay_within_the_account(
    server: ServerProcess, size: int, codes: set[str], channels: int
) -> None:
    given = message(datatype="UINT8", shape=[1, size])
    given.raw_input_contents.append(bytes(size))
    raw = given.SerializeToString()
    before = server.metric("process_resident_memory_bytes")
    opened = [grpc.insecure_channel(server.grpc, (("grpc.use_local_subchannel_pool", 1),)) for _ in range(channels)]
    peak = before
    with ThreadPoolExecutor(24) as pool:
        calls = [pool.submit(infer, opened[index % channels], raw) for index in range(24)]
        while not all(call.done() for call in calls):
            peak = max(peak, server.metric("process_resident_memory_bytes"))
    for channel in opened:
        channel.close()
    assert {call.result() for call in calls} == codes
    assert peak - before < 2 * ACCOUNT


@pytest.mark.parametrize(("chunk", "count"), [(b"1\r\nA\r\n", 400_000), (b"1;" + b"e" * 200 + b"\r\nA\r\n", 10_000)])
def test_a_body_in_tiny_chunks_is_no_good_request(server: ServerProcess, chunk: bytes, count: int) -> None:
    host, _, port = server.data.removeprefix("http://").rpartition(":")
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    with socket.create_connection((host, int(port)), timeout=60) as wire:
        wire.sendall(head + chunk * count + b"0\r\n\r\n")
        assert wire.recv(12)[9:10] == b"4"


def test_a_bad_row_among_good_requests_fails_alone(server: ServerProcess) -> None:
    def send(index: int) -> int:
        values = [float("nan") if index == 3 else 0.1 * index] * 64
        return binary(
            server, {key: GOOD[key] for key in ("name", "datatype", "shape")}, struct.pack("<64f", *values)
        ).status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(send, range(8)))
    assert statuses.pop(3) in (200, 422)
    assert set(statuses) == {200}


def test_slow_connections_end_and_good_requests_go_on(tmp_path: Path) -> None:
    options = ("--model", "digits=python://digits_shaped:factory", "--slo-ms", "20000", "--header-timeout-s", "0.5")
    server = ServerProcess(tmp_path, *options)
    host, _, port = server.data.removeprefix("http://").rpartition(":")
    slow = [socket.create_connection((host, int(port)), timeout=30) for _ in range(100)]
    for index, wire in enumerate(slow):
        wire.sendall(b"G" if index % 2 else b"POST " + PATH.encode() + b" HTTP/1.1\r\nhost: x\r\nx-a: ")
    assert server.infer("digits", {"inputs": [GOOD]}).status == 200
    for wire in slow:
        assert wire.makefile("rb").read().startswith(b"HTTP/1.1 408 ")
        wire.close()
    assert server.infer("digits", {"inputs": [GOOD]}).status == 200
    assert server.stop() == 0
