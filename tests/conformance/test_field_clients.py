"""Clients of the field as they come, without options for this server: load generators, Java, curl, reflection."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from perf_analyzer import load
from server_process import ServerProcess

pytestmark = pytest.mark.torch

SERVICE = "inference.GRPCInferenceService"
BODY = json.dumps(
    {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.25] * 64}]}, indent=1
)
ROWS = 100
LONG_BODY = json.dumps(
    {"inputs": [{"name": "input", "datatype": "FP32", "shape": [ROWS, 1, 8, 8], "data": [0.25] * 64 * ROWS}]}
)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("more", [[], ["-b", "4"], ["--async"]], ids=["alone", "batches", "async"])
def test_perf_analyzer(
    perf_analyzer: list[str], model_server: ServerProcess, tmp_path: Path, protocol: str, more: list[str]
) -> None:
    address = model_server.grpc if protocol == "grpc" else model_server.data.removeprefix("http://")
    before = counted(model_server)
    line = load(perf_analyzer, "-m", "digits", "-i", protocol, "-u", address, *more, report=tmp_path / "report.csv")
    assert float(line["Inferences/Second"]) > 0
    # Its columns of the server's own times come from the statistics extension.
    assert float(line["Server Compute Infer"]) > 0
    assert counted(model_server) - before >= 50


def counted(server: ServerProcess) -> int:
    count: int = server.get("/v2/models/digits/stats").json["model_stats"][0]["inference_stats"]["success"]["count"]
    return count


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritons_extensions(model_server: ServerProcess, protocol: str) -> None:
    client: Any
    if protocol == "http":
        client = triton_http.InferenceServerClient(model_server.data.removeprefix("http://"))
        config = client.get_model_config("digits")
        (statistics,) = client.get_inference_statistics("digits")["model_stats"]
        index = client.get_model_repository_index()
    else:
        client = triton_grpc.InferenceServerClient(model_server.grpc)
        config = client.get_model_config("digits", as_json=True)["config"]
        (statistics,) = client.get_inference_statistics("digits", as_json=True)["model_stats"]
        index = client.get_model_repository_index(as_json=True)["models"]
    client.close()
    assert (config["max_batch_size"], config["input"][0]["data_type"]) == (64, "TYPE_FP32")
    assert (statistics["name"], statistics["version"]) == ("digits", "1")
    assert {entry["name"]: entry["state"] for entry in index} == dict.fromkeys(("brain", "digits", "mixed"), "READY")


def test_javas_http_client_with_its_defaults(model_server: ServerProcess) -> None:
    """It offers HTTP/2 with its first request on every connection."""
    java = shutil.which("java")
    if java is None:
        pytest.skip("no Java here; test_server_upgrade.py sends its bytes")
    program = str(Path(__file__).with_name("Infer.java"))
    for body in (BODY, LONG_BODY):
        command = [java, program, f"{model_server.data}/v2/models/digits/infer", body]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        lines = [line.split() for line in done.stdout.splitlines()]
        assert [line[:2] for line in lines] == [["200", "HTTP_1_1"]] * 3, done.stdout + done.stderr
        assert len({line[2] for line in lines}) == 1


CURL: dict[str, list[str]] = {
    "as a form": ["--data", "@-"],
    "binary": ["--data-binary", "@-"],
    "as JSON": ["--json", "@-"],
    "chunked": ["--data", "@-", "--header", "transfer-encoding: chunked"],
    "with HTTP/1.0": ["--data", "@-", "--http1.0"],
    "with an offer of HTTP/2": ["--data", "@-", "--http2"],
    "compressed answer": ["--data", "@-", "--compressed"],
    "without a type": ["--data", "@-", "--header", "content-type:"],
    "asking to continue": ["--data", "@-", "--header", "expect: 100-continue"],
}


@pytest.mark.parametrize("body", [BODY, LONG_BODY], ids=["short", "long"])
@pytest.mark.parametrize("options", CURL.values(), ids=CURL)
def test_curl(model_server: ServerProcess, options: list[str], body: str) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl here")
    command = [curl, "--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}", *options]
    url = f"{model_server.data}/v2/models/digits/infer"
    done = subprocess.run([*command, url], input=body, capture_output=True, text=True, check=False)
    answer, _, status = done.stdout.rpartition("\n")
    assert status == "200", done.stdout + done.stderr
    rows = len(json.loads(answer)["outputs"][0]["data"]) // 10
    assert rows == (1 if body == BODY else ROWS)


def test_curl_asks_for_the_head(model_server: ServerProcess) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl here")
    done = subprocess.run(
        [curl, "--silent", "--head", f"{model_server.data}/v2/health/ready"], capture_output=True, check=True
    )
    assert done.stdout.startswith(b"HTTP/1.1 200")


class Reflected:
    """A client that knows nothing but the address, as grpcurl."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.service = DescriptorPool(self.database).FindServiceByName(SERVICE)

    def call(self, method: str, **fields: Any) -> Any:
        found = self.service.FindMethodByName(method)
        request, answer = GetMessageClass(found.input_type), GetMessageClass(found.output_type)
        invoke = self.channel.unary_unary(f"/{SERVICE}/{method}", request.SerializeToString, answer.FromString)
        return invoke(request(**fields), timeout=30)


def test_a_client_by_reflection(model_server: ServerProcess) -> None:
    with grpc.insecure_channel(model_server.grpc) as channel:
        client = Reflected(channel)
        assert SERVICE in client.database.get_services()
        (output,) = client.call("ModelMetadata", name="digits").outputs
        given = {"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8], "contents": {"fp32_contents": [0.25] * 64}}
        answer = client.call("ModelInfer", model_name="digits", inputs=[given])
        assert (answer.outputs[0].name, len(answer.outputs[0].contents.fp32_contents)) == (output.name, 10)
        assert client.call("ModelConfig", name="digits").config.max_batch_size == 64
        assert client.call("ModelStatistics", name="digits").model_stats[0].inference_count > 0
        assert client.call("RepositoryIndex").models[0].state == "READY"
        assert client.call("ServerReady").ready
