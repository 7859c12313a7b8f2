"""Configuration, statistics and index of the models over REST and gRPC, and keep-alive pings of gRPC clients."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from commanded_model import FAIL
from engine_world import handles
from google.protobuf.json_format import MessageToDict
from server_process import ServerProcess, eventually

from sponge_server.lifecycle import Lifecycle
from sponge_server.observability.model_counts import ModelCounts, Spans
from sponge_server.protocol.extensions import config_document, index_document, statistics_document
from sponge_server.protos import inference_pb2 as pb
from sponge_server.workers.interface import DATATYPE_SIZE, ModelInfo, TensorSpec

pytestmark = pytest.mark.torch

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = ("--model", "m=python://commanded_model:factory", "--max-batch", "4", "--slo-ms", "20000", "--cores", "1")
    server = ServerProcess(tmp_path_factory.mktemp("m"), *options)
    yield server
    assert server.stop() == 0


def call(server: ServerProcess, method: str, request: Any) -> Any:
    """The answer as a document with the members of REST."""
    answers = {"ModelConfig": pb.ModelConfigResponse, "ModelStatistics": pb.ModelStatisticsResponse}
    kind = answers.get(method, pb.RepositoryIndexResponse)
    return MessageToDict(
        kind.FromString(server.call(method, request.SerializeToString())), preserving_proto_field_name=True
    )


def numbers(document: Any) -> Any:
    """Without what a message leaves out, and with 64-bit numbers as numbers."""
    if isinstance(document, dict):
        found = {name: numbers(value) for name, value in document.items()}
        return {name: value for name, value in found.items() if value not in (0, "", False, {}, [])}
    if isinstance(document, list):
        return [numbers(value) for value in document]
    return int(document) if isinstance(document, str) and document.lstrip("-").isdigit() else document


def test_configuration(server: ServerProcess) -> None:
    config = server.get("/v2/models/m/config").json
    assert (config["name"], config["max_batch_size"], config["backend"]) == ("m", 4, "sponge")
    assert config["input"] == [{"name": "command", "data_type": "TYPE_INT64", "dims": [1]}]
    assert config["model_transaction_policy"] == {"decoupled": False}
    assert server.get("/v2/models/m/versions/1/config").json == config
    assert numbers(call(server, "ModelConfig", pb.ModelConfigRequest(name="m"))["config"]) == numbers(config)


def test_every_datatype_has_a_name_in_the_configuration() -> None:
    specs = tuple(TensorSpec(name, name, (2, -1)) for name in DATATYPE_SIZE)
    document = config_document(ModelInfo("m", specs, specs, 4, None, False, None, "test"))
    known = pb.DataType.keys()
    assert {entry["data_type"] for entry in document["input"]} == set(known) - {"TYPE_INVALID", "TYPE_STRING"}


def test_statistics_count_rows_batches_and_failures(server: ServerProcess) -> None:
    def now() -> Any:
        return server.get("/v2/models/m/stats").json["model_stats"][0]

    before, began = now(), time.time()
    assert server.command(0).status == 200
    three = {"inputs": [{"name": "command", "datatype": "INT64", "shape": [3, 1], "data": [0, 0, 0]}]}
    assert server.infer("m", three).status == 200
    assert server.command(FAIL).status == 500
    assert server.command(0, x_sponge_slo_ms="0.01").status in (503, 504)
    after = now()
    assert after["inference_count"] - before["inference_count"] == 4
    assert after["execution_count"] - before["execution_count"] >= 2
    assert began * 1000 - 2000 < after["last_inference"] < time.time() * 1000 + 2000
    done, was = after["inference_stats"], before["inference_stats"]
    assert done["success"]["count"] - was["success"]["count"] == 2
    assert done["fail"]["count"] - was["fail"]["count"] == 2
    assert done["success"]["ns"] - was["success"]["ns"] > done["compute_infer"]["ns"] - was["compute_infer"]["ns"] > 0
    sizes = [entry["batch_size"] for entry in after["batch_stats"]]
    assert sizes == sorted(set(sizes))
    assert sum(entry["compute_infer"]["count"] for entry in after["batch_stats"]) == after["execution_count"]
    assert server.get("/v2/models/stats").json["model_stats"] == [after]
    for request in (pb.ModelStatisticsRequest(name="m"), pb.ModelStatisticsRequest()):
        assert numbers(call(server, "ModelStatistics", request)["model_stats"]) == numbers([after])


def test_repository_index(server: ServerProcess) -> None:
    entry = {"name": "m", "version": "1", "state": "READY", "reason": ""}
    for body in (b"", b"{}", b'{"ready": true}'):
        assert server.request(server.data + "/v2/repository/index", body, method="POST").json == [entry]
    assert numbers(call(server, "RepositoryIndex", pb.RepositoryIndexRequest(ready=True))) == {
        "models": [numbers(entry)]
    }


@pytest.mark.parametrize(("body", "status"), [(b"[", 400), (b"[]", 400), (bytes(1 << 20), 413)])
def test_an_invalid_request_to_the_index(server: ServerProcess, body: bytes, status: int) -> None:
    assert server.request(server.data + "/v2/repository/index", body, method="POST").status == status


def test_the_index_before_the_models_are_loaded() -> None:
    (entry,) = index_document(Lifecycle(["m"]), only_ready=False)
    assert (entry["state"], "being loaded" in entry["reason"]) == ("UNAVAILABLE", True)
    assert index_document(Lifecycle(["m"]), only_ready=True) == []


@pytest.mark.parametrize("what", ["config", "stats", "versions/2/config", "versions/2/stats"])
def test_an_unknown_model_or_version(server: ServerProcess, what: str) -> None:
    model = "m" if "versions" in what else "nope"
    assert server.get(f"/v2/models/{model}/{what}").status == 404
    method = "ModelConfig" if "config" in what else "ModelStatistics"
    kind = pb.ModelConfigRequest if "config" in what else pb.ModelStatisticsRequest
    with pytest.raises(grpc.RpcError) as refused:
        call(server, method, kind(name=model, version="2" if "versions" in what else ""))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_times_are_nanoseconds() -> None:
    counts = ModelCounts(last=2.5, rows=3, batches=1, success=Spans(1, 0.25), infer=Spans(1, 0.125))
    counts.by_size[3] = Spans(1, 0.125)
    (model,) = handles([ModelInfo("m", (), (), 1, None, False, None, "test")])
    document = statistics_document(model, counts)
    assert (document["last_inference"], document["inference_stats"]["success"]) == (
        2500,
        {"count": 1, "ns": 250_000_000},
    )
    assert document["batch_stats"][0]["compute_infer"] == {"count": 1, "ns": 125_000_000}


def test_the_extensions_are_announced(server: ServerProcess) -> None:
    assert {"statistics", "model_configuration", "binary_tensor_data"} <= set(server.get("/v2").json["extensions"])


@pytest.mark.parametrize("with_call", [False, True])
def test_a_client_may_ping_several_times_a_second(server: ServerProcess, with_call: bool) -> None:
    """A server that counts pings as abuse ends the connection with GOAWAY."""
    options = [
        ("grpc.keepalive_time_ms", 200),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    lost = threading.Event()
    with grpc.insecure_channel(server.grpc, options) as channel:
        live: Any = channel.unary_unary(f"/{SERVICE}/ServerLive")
        live(b"", timeout=30)
        seen: list[grpc.ChannelConnectivity] = []

        def changed(state: grpc.ChannelConnectivity) -> None:
            seen.append(state)
            if len(seen) > 1 and state is not grpc.ChannelConnectivity.READY:
                lost.set()

        channel.subscribe(changed)
        eventually(lambda: grpc.ChannelConnectivity.READY in seen)
        if with_call:
            infer: Any = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            request = pb.ModelInferRequest(model_name="m")
            request.inputs.add(name="command", datatype="INT64", shape=[1, 1]).contents.int64_contents.append(0)
            for _ in range(4):
                infer(request.SerializeToString(), timeout=30)
                assert not lost.wait(0.5)
        else:
            assert not lost.wait(2.5), "the server ended the connection"
        live(b"", timeout=30)
