"""Strings in and out, over REST in both forms and over gRPC, of a class of one's own."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from server_process import ServerProcess

from sponge_server.protocol.oip import pack_strings
from sponge_server.protos import inference_pb2 as pb
from sponge_server.workers.strings import unpacked

pytestmark = pytest.mark.torch

TEXTS = ["Guten Tag", 'naïve, "quoted" [text]', "日本"]
LOUD = ["GUTEN TAG", 'NAÏVE, "QUOTED" [TEXT]', "日本日本"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = ("--model", "shout=python://text_models:Shouting", "--slo-ms", "30000", "--cores", "1")
    running = ServerProcess(tmp_path_factory.mktemp("s"), *options)
    yield running
    assert running.stop() == 0


def request(texts: list[str], times: list[int], **rest: Any) -> dict[str, Any]:
    text = {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts}
    return {"inputs": [text, {"name": "times", "datatype": "INT64", "shape": [len(times), 1], "data": times}], **rest}


def test_json_has_texts_as_they_are(server: ServerProcess) -> None:
    answer = server.infer("shout", request(TEXTS, [1, 1, 2]))
    assert answer.status == 200, answer.body
    outputs = {output["name"]: output for output in answer.json["outputs"]}
    assert (outputs["loud"]["datatype"], outputs["loud"]["shape"], outputs["loud"]["data"]) == ("BYTES", [3], LOUD)
    assert outputs["length"]["data"] == [9, 22, 2]


def test_bytes_that_are_no_text_come_in_base64_and_say_so(server: ServerProcess) -> None:
    raw = server.infer("shout", request(["é"], [1], outputs=[{"name": "raw"}])).json["outputs"][0]
    assert raw["parameters"] == {"content_type": "base64"}
    assert base64.b64decode(raw["data"][0]) == bytes(reversed("é".encode()))
    given = request([base64.b64encode(b"\xff").decode()], [1])
    given["inputs"][0]["parameters"] = {"content_type": "base64"}
    outputs = {output["name"]: output["data"] for output in server.infer("shout", given).json["outputs"]}
    assert outputs["loud"] == ["\ufffd"]


def test_the_binary_form_goes_both_ways(server: ServerProcess) -> None:
    packed = pack_strings([text.encode() for text in TEXTS])
    document = request(TEXTS, [1, 1, 2], parameters={"binary_data_output": True})
    del document["inputs"][0]["data"]
    document["inputs"][0]["parameters"] = {"binary_data_size": len(packed)}
    head = json.dumps(document).encode()
    answer = server.infer("shout", head + packed, inference_header_content_length=str(len(head)))
    assert answer.status == 200, answer.body
    length = int(answer.headers["inference-header-content-length"])
    first = json.loads(answer.body[:length])["outputs"][0]
    body = answer.body[length : length + first["parameters"]["binary_data_size"]]
    assert [text.decode() for text in unpacked(body)] == LOUD


@pytest.mark.parametrize("raw", [False, True])
def test_grpc_takes_and_gives_strings(server: ServerProcess, raw: bool) -> None:
    message = pb.ModelInferRequest(model_name="shout")
    text = message.inputs.add(name="text", datatype="BYTES", shape=[3])
    times = message.inputs.add(name="times", datatype="INT64", shape=[3, 1])
    encoded = [text.encode() for text in TEXTS]
    if raw:
        numbers = b"".join(number.to_bytes(8, "little") for number in (1, 1, 2))
        message.raw_input_contents.extend([pack_strings(encoded), numbers])
    else:
        text.contents.bytes_contents.extend(encoded)
        times.contents.int64_contents.extend([1, 1, 2])
    answer = pb.ModelInferResponse.FromString(server.call("ModelInfer", message.SerializeToString()))
    assert [output.datatype for output in answer.outputs] == ["BYTES", "INT32", "BYTES"]
    loud = unpacked(answer.raw_output_contents[0]) if raw else answer.outputs[0].contents.bytes_contents
    assert [text.decode() for text in loud] == LOUD


def test_a_long_text_with_many_signs_is_a_text(server: ServerProcess) -> None:
    long = 'a "word", [and] {another}, ' * 20_000
    outputs = {output["name"]: output for output in server.infer("shout", request([long, "b"], [1, 1])).json["outputs"]}
    assert outputs["length"]["data"] == [len(long), 1]
    assert outputs["loud"]["data"][0] == long.upper()


def test_what_the_model_refuses_is_the_requests_fault(server: ServerProcess) -> None:
    answer = server.infer("shout", request(["good", ""], [1, 1]))
    assert (answer.status, answer.json["detail"]) == (422, "row 1: an empty text says nothing")


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"data": [1, 2]}, 400, "BYTES elements in JSON are strings, and 1 is none"),
        ({"data": ["a"]}, 400, "shape [2] holds 2 elements, data has 1"),
        ({"shape": [2, 1]}, 422, "input text has shape [2, 1], the model takes [-1]"),
        ({"datatype": "INT32", "data": [1, 2]}, 422, "input text has datatype INT32, the model takes BYTES"),
        ({"name": "texts"}, 422, "needs exactly the inputs text (BYTES [-1]), times (INT64 [-1, 1])"),
    ],
)
def test_wrong_strings_are_told_what_is_right(
    server: ServerProcess, change: dict[str, Any], status: int, message: str
) -> None:
    document = request(["a", "b"], [1, 1])
    document["inputs"][0] |= change
    answer = server.infer("shout", document)
    assert answer.status == status
    assert message in answer.json["detail"]


def test_strings_have_no_classification(server: ServerProcess) -> None:
    ask = [{"name": "loud", "parameters": {"classification": 1}}]
    answer = server.infer("shout", request(["a"], [1], outputs=ask))
    assert (answer.status, "is of strings" in answer.json["detail"]) == (400, True)


def test_metadata_names_strings(server: ServerProcess) -> None:
    told = server.get("/v2/models/shout").json
    assert told["inputs"][0] == {"name": "text", "datatype": "BYTES", "shape": [-1]}
    assert told["outputs"][0] == {"name": "loud", "datatype": "BYTES", "shape": [-1]}
