"""The gRPC port of a real server: deadlines, status codes, clients that leave, limits, health, reflection, draining."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from commanded_model import FAIL
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from server_process import ServerProcess, eventually

from sponge_server.protos import inference_pb2 as pb

pytestmark = pytest.mark.torch

OPTIONS = ("--model", "m=python://commanded_model:factory", "--max-batch", "1", "--slo-ms", "20000", "--cores", "1")
SERVICE = "inference.GRPCInferenceService"
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    queue_bytes = 7 * LIMIT  # three times a message of that size and its answer, which repeats the id
    limits = ("--max-body-bytes", str(LIMIT), "--max-json-bytes", "4096", "--max-queue-bytes", str(queue_bytes))
    server = ServerProcess(tmp_path_factory.mktemp("g"), *OPTIONS, *limits, "--slo-class", "gold=2000")
    yield server
    assert server.stop() == 0


@pytest.fixture
def stub(server: ServerProcess) -> Iterator[Stub]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield Stub(channel)


class Stub:
    """The calls of the service, on any bytes."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.raw_infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        self.infer_call = channel.unary_unary(
            f"/{SERVICE}/ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
        )

    def infer(self, command: int, *headers: tuple[str, str], timeout: float | None = 30, **rest: Any) -> list[float]:
        response = self.infer_call(request(command, **rest), timeout=timeout, metadata=headers)
        return list(response.outputs[0].contents.fp64_contents)

    def call(self, method: str, body: bytes = b"") -> bytes:
        raw: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(f"/{SERVICE}/{method}")
        return raw(body, timeout=30)


def request(command: int, model: str = "m", **rest: Any) -> pb.ModelInferRequest:
    given = {"name": "command", "datatype": "INT64", "shape": [1, 1], "contents": {"int64_contents": [command]}}
    return pb.ModelInferRequest(model_name=model, inputs=[given], **rest)


def refused(error: pytest.ExceptionInfo[grpc.RpcError]) -> tuple[str, str]:
    return error.value.code().name, error.value.details() or ""


def trailing_metadata(call: Any) -> dict[str, str]:
    """Of a finished call or its error; none of the names that are tested holds bytes."""
    return dict(call.trailing_metadata())


def running(server: ServerProcess) -> bool:
    return bool(server.ask("/control/v1/state").json["threads_running"])


def waiting(server: ServerProcess) -> int:
    length: int = server.ask("/control/v1/state").json["queue_length"]
    return length


def outcomes(server: ServerProcess) -> dict[str, int]:
    counted: dict[str, int] = server.ask("/control/v1/state").json["outcomes"]
    return counted


def test_an_answer_carries_its_timing_and_id(stub: Stub) -> None:
    sent_at = ("x-sponge-sent-at", f"{time.time() - 0.25:.4f}")
    response, call = stub.infer_call.with_call(request(5, id="42"), metadata=(sent_at,))
    assert (response.id, response.model_name, response.model_version) == ("42", "m", "1")
    timing = trailing_metadata(call)["server-timing"]
    spans = dict(re.findall(r"(\w+);dur=([\d.]+)", timing))
    assert list(spans) == ["network", "queue", "batch", "infer"]
    assert float(spans["network"]) == pytest.approx(250, abs=150)
    assert float(spans["infer"]) >= 5


REFUSED: list[tuple[pb.ModelInferRequest, tuple[str, str] | None, str, str]] = [
    (request(0, model="nope"), None, "NOT_FOUND", "no model 'nope'"),
    (request(0, model_version="2"), None, "NOT_FOUND", "version '1' only"),
    (pb.ModelInferRequest(model_name="m"), None, "INVALID_ARGUMENT", "at least one input"),
    (request(0, outputs=[{"name": "z"}]), None, "INVALID_ARGUMENT", "no output z"),
    (request(0), ("x-sponge-slo-ms", "soon"), "INVALID_ARGUMENT", "x-sponge-slo-ms"),
    (request(0), ("x-sponge-slo-class", "lead"), "INVALID_ARGUMENT", "known: gold"),
    (request(0, parameters={"timeout": {"string_param": "x"}}), None, "INVALID_ARGUMENT", "parameters.timeout"),
    (request(FAIL), None, "INTERNAL", "told to fail"),
    (pb.ModelInferRequest(model_name="m", id="x" * 2 * LIMIT), None, "RESOURCE_EXHAUSTED", "larger than max"),
    (
        pb.ModelInferRequest(
            model_name="m",
            inputs=[{"name": "x", "datatype": "INT64", "shape": [3500], "contents": {"int64_contents": [1] * 5000}}],
        ),
        None,
        "RESOURCE_EXHAUSTED",
        "binary form",
    ),
]


@pytest.mark.parametrize(("message", "header", "code", "detail"), REFUSED, ids=[case[3] for case in REFUSED])
def test_what_is_refused_says_why(
    stub: Stub, message: pb.ModelInferRequest, header: tuple[str, str] | None, code: str, detail: str
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        stub.infer_call(message, timeout=30, metadata=(header,) if header else ())
    assert refused(error)[0] == code
    assert detail in refused(error)[1]


def test_a_hopeless_request_is_refused_with_the_time_to_retry(stub: Stub) -> None:
    headers = (("x-sponge-slo-ms", "100"), ("x-sponge-sent-at", f"{time.time() - 0.5:.3f}"))
    with pytest.raises(grpc.RpcError) as error:
        stub.infer(0, *headers)
    assert refused(error) == ("UNAVAILABLE", "the deadline had passed when the request arrived")
    trailing = trailing_metadata(error.value)
    assert (trailing["grpc-retry-pushback-ms"], trailing["sponge-problem"]) == ("1000", "shed")


WAYS: dict[str, tuple[tuple[str, str] | None, dict[str, Any]]] = {
    "header": (("x-request-timeout-seconds", "2"), {}),
    "class": (("x-sponge-slo-class", "gold"), {"timeout": 10}),
    "parameter": (None, {"parameters": {"timeout": {"int64_param": 2_000_000}}, "timeout": 10}),
    "call": (None, {"timeout": 2}),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_state_a_deadline(server: ServerProcess, stub: Stub, pool: ThreadPoolExecutor, way: str) -> None:
    """Behind a batch of some seconds none can be met; each is told so before it passes, but not before it is sure."""
    header, rest = WAYS[way]
    blocker = pool.submit(stub.infer, 3500)
    eventually(lambda: running(server))
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as error:
        stub.infer(0, *filter(None, [header]), **rest)
    assert refused(error)[0] == "DEADLINE_EXCEEDED"
    assert 0.5 < time.monotonic() - began < 4
    assert blocker.result() == [3500]


def test_a_client_that_leaves_frees_its_place_before_compute(
    server: ServerProcess, stub: Stub, pool: ThreadPoolExecutor
) -> None:
    before, batches = outcomes(server), server.metric('sponge_batch_size_count{model="m"}')
    blocker = pool.submit(stub.infer, 1500)
    eventually(lambda: running(server))
    leaver = stub.infer_call.future(request(5000))
    eventually(lambda: waiting(server) == 1)
    leaver.cancel()
    eventually(lambda: waiting(server) == 0)
    assert blocker.result() == [1500]
    assert outcomes(server)["cancelled"] == before["cancelled"] + 1
    assert server.metric('sponge_batch_size_count{model="m"}') == batches + 1


def test_a_call_that_times_out_while_it_runs_counts_as_late(server: ServerProcess, stub: Stub) -> None:
    """The profile promises 6 ms, so it is started; the client is gone when it ends, so it was not in time."""
    before = outcomes(server)
    with pytest.raises(grpc.RpcError) as error:
        stub.infer(1500, timeout=0.5)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: outcomes(server)["late"] == before["late"] + 1)
    assert outcomes(server)["cancelled"] == before["cancelled"]


def test_a_pending_message_is_seen_and_ends_with_its_deadline(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        call: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(f"/{SERVICE}/ModelInfer")
        began = time.monotonic()
        answer = call.future(slowly(5.0), metadata=(("x-sponge-slo-ms", "1500"),))
        eventually(lambda: server.ask("/control/v1/state").json["uploads_in_flight"] == 1)
        with pytest.raises(grpc.RpcError) as error:
            answer.result()
        assert time.monotonic() - began < 4
    assert refused(error) == (
        "DEADLINE_EXCEEDED",
        "the deadline can no longer be met, and only 0 bytes of the body have arrived",
    )
    eventually(lambda: server.ask("/control/v1/state").json["uploads_in_flight"] == 0)


def slowly(after_s: float) -> Iterator[bytes]:
    time.sleep(after_s)
    yield request(0).SerializeToString()


def test_a_call_without_a_message(server: ServerProcess, stub: Stub) -> None:
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as error:
        channel.stream_unary(f"/{SERVICE}/ModelInfer")(iter(()))
    assert refused(error)[0] == "INVALID_ARGUMENT"
    assert stub.infer(3) == [3]


def test_memory_is_charged_for_messages_as_for_bodies(
    server: ServerProcess, stub: Stub, pool: ThreadPoolExecutor
) -> None:
    blocker = pool.submit(stub.infer, 2000)
    eventually(lambda: running(server))
    filled = [pool.submit(stub.infer, 0, id="x" * (LIMIT - 100)) for _ in range(3)]
    eventually(lambda: waiting(server) == 3)
    with pytest.raises(grpc.RpcError) as error:
        stub.infer(0, id="x" * (LIMIT - 100))
    assert refused(error)[0] == "RESOURCE_EXHAUSTED"
    assert trailing_metadata(error.value)["sponge-problem"] == "no-room"
    assert server.command(0).status == 200, "a small one has room"
    assert blocker.result() == [2000]
    assert [one.result() for one in filled] == [[0]] * 3


def test_memory_for_a_message_is_set_aside_before_it_arrives(tmp_path: Path) -> None:
    """Else any number of slow messages would be in memory before one of them is counted: they take turns."""
    most, framing = 1 << 20, 64 << 10
    limits = ("--max-queue-bytes", str(2 * most), "--max-body-bytes", str(most))
    server = ServerProcess(tmp_path, "--model", "digits=python://digits_shaped:factory", "--slo-ms", "60000", *limits)
    with grpc.insecure_channel(server.grpc) as channel:
        rest_comes = threading.Event()

        def message() -> Iterator[bytes]:
            rest_comes.wait(60)
            yield b""

        infer: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(f"/{SERVICE}/ModelInfer")
        calls = [infer.future(message()) for _ in range(3)]
        eventually(lambda: server.ask("/control/v1/state").json["uploads_in_flight"] == 3)
        assert server.metric("sponge_request_bytes") == most + framing, "for one at a time"
        assert not any(call.done() for call in calls)
        rest_comes.set()
        assert sorted(call.code().name for call in calls) == ["NOT_FOUND"] * 3
        eventually(lambda: server.metric("sponge_request_bytes") == 0)
        with pytest.raises(grpc.RpcError) as error:
            Stub(channel).infer(0, id="x" * (most + 2 * framing))
        assert refused(error)[0] == "RESOURCE_EXHAUSTED"
    assert server.stop() == 0


@pytest.mark.parametrize("method", ["ServerLive", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer"])
def test_garbage_is_not_an_internal_error(stub: Stub, method: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        stub.call(method, b"\x0a\xff\xff\xff\xff\xff")
    assert refused(error)[0] == "INVALID_ARGUMENT"


def test_health_and_reflection(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == 1
        known = ProtoReflectionDescriptorDatabase(channel)
        assert {SERVICE, "grpc.health.v1.Health"} <= set(known.get_services())
        described = DescriptorPool(known).FindServiceByName(SERVICE)
        assert described.FindMethodByName("ModelInfer").input_type.full_name == "inference.ModelInferRequest"


@pytest.mark.parametrize("delay", ["0", "0.2"])
def test_draining_answers_what_was_accepted_and_refuses_the_rest(
    tmp_path: Path, pool: ThreadPoolExecutor, delay: str
) -> None:
    """A message that is still coming keeps the server from its end until everything was looked at."""
    server = ServerProcess(tmp_path, *OPTIONS, "--drain-delay-s", delay)
    rest_comes = threading.Event()

    def message() -> Iterator[bytes]:
        rest_comes.wait(60)
        yield request(7).SerializeToString()

    with grpc.insecure_channel(server.grpc) as channel:
        stub, health = Stub(channel), health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        infer: grpc.StreamUnaryMultiCallable[bytes, pb.ModelInferResponse] = channel.stream_unary(
            f"/{SERVICE}/ModelInfer", response_deserializer=pb.ModelInferResponse.FromString
        )
        uploading = infer.future(message(), timeout=60)
        eventually(lambda: server.ask("/control/v1/state").json["uploads_in_flight"] == 1)
        accepted = [pool.submit(stub.infer, 200) for _ in range(3)]
        eventually(lambda: waiting(server) + running(server) + outcomes(server)["in_time"] == 3)
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        refusals: list[grpc.RpcError] = []

        def is_refused() -> bool:
            try:
                stub.infer(0)
            except grpc.RpcError as error:
                refusals.append(error)
            return bool(refusals)

        eventually(is_refused)
        is_refused()
        for error in refusals:
            assert (error.code().name, error.details()) == ("UNAVAILABLE", "not ready: the server is shutting down")
            assert trailing_metadata(error)["sponge-problem"] == "draining"
        assert [one.result() for one in accepted] == [[200]] * 3
        rest_comes.set()
        assert list(uploading.result().outputs[0].contents.fp64_contents) == [7]
        assert list(watch) == [], "a watch is told of the end, not cut off when the patience with it is over"
    assert server.process.wait(timeout=20) == 0


def test_more_connections_than_allowed_are_closed(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, *OPTIONS, "--max-connections", "2")
    own = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.insecure_channel(server.grpc, options=own) for _ in range(3)]
    for channel in channels[:2]:
        assert Stub(channel).infer(1) == [1]
    with pytest.raises(grpc.RpcError) as error:
        Stub(channels[2]).infer(1, timeout=5)
    assert refused(error)[0] == "UNAVAILABLE"
    channels[0].close()
    eventually(lambda: _answers(channels[2]))
    for channel in channels[1:]:
        channel.close()
    assert server.stop() == 0


def _answers(channel: grpc.Channel) -> bool:
    try:
        return Stub(channel).infer(1, timeout=5) == [1]
    except grpc.RpcError:
        return False


def test_a_port_in_use_names_the_option(server: ServerProcess, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(AssertionError, match="no ready line") as failed:
            ServerProcess(tmp_path, *OPTIONS, "--grpc-port", port)
        fix = "stop the process that uses it, or choose another port with --grpc-port"
        assert f"port {port} on 127.0.0.1 is in use: {fix}" in str(failed.value)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool
