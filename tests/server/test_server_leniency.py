"""What clients of the field send besides the protocol's own examples: nulls, odd types, HEAD, Triton's parameters."""

from __future__ import annotations

import copy
import http.client
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from server_process import Reply, ServerProcess

from sponge_server.protos import inference_pb2 as pb

pytestmark = pytest.mark.torch

INFER = "/v2/models/digits/infer"
INPUT: dict[str, Any] = {"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = ("--model", "digits=python://digits_shaped:factory", "--slo-ms", "20000", "--cores", "1")
    server = ServerProcess(tmp_path_factory.mktemp("digits"), *options)
    yield server
    assert server.stop() == 0


def send(server: ServerProcess, body: Any, **headers: str | None) -> Reply:
    """One request; a header of None is not sent, not even by default."""
    connection = http.client.HTTPConnection(server.data.removeprefix("http://"), timeout=30)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.putrequest("POST", INFER)
    for name, value in {"content-type": "application/json", "content-length": str(len(raw)), **headers}.items():
        if value is not None:
            connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(raw)
    answer = connection.getresponse()
    reply = Reply(answer.status, answer.headers, answer.read())
    connection.close()
    return reply


OPTIONAL: dict[str, tuple[Any, ...]] = {
    "id": ("id",),
    "parameters": ("parameters",),
    "the timeout": ("parameters", "timeout"),
    "the priority": ("parameters", "priority"),
    "the form of all outputs": ("parameters", "binary_data_output"),
    "a parameter of one's own": ("parameters", "mine"),
    "outputs": ("outputs",),
    "parameters of an input": ("inputs", 0, "parameters"),
    "size of an input": ("inputs", 0, "parameters", "binary_data_size"),
    "parameters of an output": ("outputs", 0, "parameters"),
    "classes": ("outputs", 0, "parameters", "classification"),
    "the form of an output": ("outputs", 0, "parameters", "binary_data"),
}


@pytest.mark.parametrize("path", OPTIONAL.values(), ids=OPTIONAL)
def test_null_in_an_optional_member_counts_as_absent(server: ServerProcess, path: tuple[Any, ...]) -> None:
    document: dict[str, Any] = {
        "id": "7",
        "parameters": {"timeout": 9_000_000, "priority": 1, "binary_data_output": False, "mine": 1},
        "inputs": [copy.deepcopy(INPUT) | {"parameters": {"binary_data_size": None}}],
        "outputs": [{"name": "logits", "parameters": {"classification": 0, "binary_data": False}}],
    }
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = None
    reply = send(server, document)
    assert reply.status == 200, reply.body
    assert len(reply.json["outputs"][0]["data"]) == 10
    assert reply.json.get("id") == (None if path == ("id",) else "7")


@pytest.mark.parametrize("name", ["name", "datatype", "shape", "data"])
def test_null_in_a_required_member_is_refused(server: ServerProcess, name: str) -> None:
    assert send(server, {"inputs": [INPUT | {name: None}]}).status == 400


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/x-www-form-urlencoded",
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/octet-stream",
        "application/vnd.api+json",
        "",
        None,
    ],
)
def test_json_is_read_under_any_type_that_clients_give_it(server: ServerProcess, content_type: str | None) -> None:
    assert send(server, {"inputs": [INPUT]}, content_type=content_type).status == 200


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", None])
def test_what_is_no_json_is_refused_as_such(server: ServerProcess, content_type: str | None) -> None:
    reply = send(server, b"inputs=1&data=2", content_type=content_type)
    assert (reply.status, "cannot be read" in reply.json["detail"]) == (400, True)


@pytest.mark.parametrize("content_type", ["text/html", "multipart/form-data; boundary=x", "image/gif", "nonsense"])
def test_other_types_are_refused_with_those_that_are_known(server: ServerProcess, content_type: str) -> None:
    reply = send(server, {"inputs": [INPUT]}, content_type=content_type)
    assert (reply.status, "application/json" in reply.json["detail"]) == (415, True)


GOOD_PARAMETERS: list[dict[str, Any]] = [
    {"timeout": 0},
    {"timeout": 0.0},
    {"timeout": "0"},
    {"timeout": "5000000"},
    {"timeout": 5_000_000, "priority": 2},
    {"priority": 0},
    {"priority": 2**64 - 1},
    {"priority": "3"},
    {"my_own": "x", "n": 1, "b": True, "nested": {"a": [1]}, "sequence_id": 4},
]
BAD_PARAMETERS: list[dict[str, Any]] = [
    {"timeout": "soon"},
    {"timeout": "-5"},
    {"timeout": -1},
    {"timeout": True},
    {"timeout": [5]},
    {"timeout": 10**18},
    {"priority": -1},
    {"priority": 1.5},
    {"priority": "high"},
    {"priority": "٣"},
    {"priority": False},
]


def by_grpc(server: ServerProcess, parameters: dict[str, Any]) -> int:
    """The HTTP status that the answer stands for."""
    request = pb.ModelInferRequest(model_name="digits")
    request.inputs.add(name="input", datatype="FP32", shape=[1, 1, 8, 8]).contents.fp32_contents.extend([0.5] * 64)
    for name, value in parameters.items():
        kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
        kind = "uint64_param" if isinstance(value, int) and value >= 2**63 else kinds[type(value)]
        setattr(request.parameters[name], kind, value)
    with grpc.insecure_channel(server.grpc) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )
        try:
            infer(request, timeout=30)
        except grpc.RpcError as error:
            return {"INVALID_ARGUMENT": 400}.get(error.code().name, 500)
        return 200


def flat(parameters: dict[str, Any]) -> bool:
    return not any(isinstance(value, list | dict) for value in parameters.values())


@pytest.mark.parametrize("parameters", GOOD_PARAMETERS, ids=json.dumps)
def test_parameters_as_tritons_clients_send_them(server: ServerProcess, parameters: dict[str, Any]) -> None:
    assert send(server, {"inputs": [INPUT], "parameters": parameters}).status == 200
    if flat(parameters):
        assert by_grpc(server, parameters) == 200


@pytest.mark.parametrize("parameters", BAD_PARAMETERS, ids=json.dumps)
def test_parameters_without_a_meaning_are_refused(server: ServerProcess, parameters: dict[str, Any]) -> None:
    reply = send(server, {"inputs": [INPUT], "parameters": parameters})
    assert (reply.status, f"parameters.{next(iter(parameters))}" in reply.json["detail"]) == (400, True)
    if flat(parameters):
        assert by_grpc(server, parameters) == 400


def test_a_parameter_without_a_value_over_grpc_counts_as_absent(server: ServerProcess) -> None:
    request = pb.ModelInferRequest(model_name="digits")
    given = request.inputs.add(name="input", datatype="FP32", shape=[1, 1, 8, 8])
    given.contents.fp32_contents.extend([0.5] * 64)
    asked = request.outputs.add(name="logits")
    for place in (request.parameters, given.parameters, asked.parameters):
        for name in ("timeout", "priority", "classification", "mine"):
            place[name].SetInParent()
    answer = pb.ModelInferResponse.FromString(server.call("ModelInfer", request.SerializeToString()))
    assert len(answer.outputs[0].contents.fp32_contents) == 10


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/digits", "/v2/models/digits/config", "/docs"]
)
def test_head_is_get_without_the_body(server: ServerProcess, path: str) -> None:
    connection = http.client.HTTPConnection(server.data.removeprefix("http://"), timeout=30)
    for method in ("HEAD", "GET"):
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        assert (answer.status, bool(body)) == (200, method == "GET")
        assert int(answer.headers["content-length"]) > 0
    connection.request("HEAD", INFER)
    assert connection.getresponse().status == 405
    connection.close()


@pytest.mark.parametrize("path", ["/healthz", "/metrics"])
def test_head_on_the_control_port(server: ServerProcess, path: str) -> None:
    reply = server.request(server.control + path, method="HEAD")
    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.parametrize("header", ["x-slo-ttft-ms", "x-llm-d-slo-ttft-ms"])
def test_objectives_of_inference_gateways_are_deadlines(server: ServerProcess, header: str) -> None:
    assert send(server, {"inputs": [INPUT]}, **{header: "10000"}).status == 200
    assert send(server, {"inputs": [INPUT]}, **{header: "0.01"}).status in (503, 504)
    assert send(server, {"inputs": [INPUT]}, **{header: "soon"}).status == 400
