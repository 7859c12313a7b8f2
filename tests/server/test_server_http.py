"""The data port of a real server with a small model: the protocol, its errors, and a third-party client."""

from __future__ import annotations

import base64
import http.client
import io
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image
from server_process import ServerProcess, eventually
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.torch

ROW = [0.5] * 64


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(
        tmp_path_factory.mktemp("digits"),
        *("--model", "digits=python://digits_shaped:factory", "--slo-ms", "20000", "--slo-class", "gold=10000"),
    )
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def spec(server: ServerProcess) -> dict[str, Any]:
    document: dict[str, Any] = server.get("/v2/models/digits").json
    return document


def tensor(spec: dict[str, Any], rows: int = 1, **changes: Any) -> dict[str, Any]:
    shape = [rows, *spec["inputs"][0]["shape"][1:]]
    values = np.linspace(0, 1, int(np.prod(shape))).tolist()
    return {"name": spec["inputs"][0]["name"], "datatype": "FP32", "shape": shape, "data": values} | changes


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((np.arange(64, dtype=np.uint8) * 4).reshape(8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_server_and_model_metadata(server: ServerProcess, spec: dict[str, Any]) -> None:
    assert server.get("/v2").json["name"] == "sponge"
    assert server.get("/v2/health/live").json == {"live": True}
    assert server.get("/v2/health/ready").json == {"ready": True}
    assert server.get("/v2/models/digits/ready").json == {"name": "digits", "ready": True}
    assert server.get("/v2/models/digits/versions/1/ready").status == 200
    assert spec["versions"] == ["1"]
    assert spec["inputs"][0]["shape"][0] == -1
    assert server.get("/v2/models/digits/versions/1").json == spec


def test_json_in_json_out_with_timing(server: ServerProcess, spec: dict[str, Any]) -> None:
    reply = server.infer("digits", {"id": "42", "inputs": [tensor(spec)]}, x_sponge_sent_at=f"{time.time() - 0.25:.4f}")
    assert reply.status == 200
    assert (reply.json["id"], reply.json["model_name"]) == ("42", "digits")
    (output,) = reply.json["outputs"]
    assert len(output["data"]) == int(np.prod(output["shape"]))
    spans = dict(re.findall(r"(\w+);dur=([\d.]+)", reply.headers["server-timing"]))
    assert list(spans) == ["network", "queue", "batch", "infer"]
    assert float(spans["network"]) == pytest.approx(250, abs=150)
    assert float(spans["infer"]) > 0


def test_rows_are_answered_in_order_whatever_batches_they_ran_in(server: ServerProcess, spec: dict[str, Any]) -> None:
    whole = server.infer("digits", {"inputs": [tensor(spec, 5)]}).json["outputs"][0]
    assert whole["shape"][0] == 5
    values = np.asarray(whole["data"]).reshape(whole["shape"])
    rows = np.asarray(tensor(spec, 5)["data"]).reshape(5, -1)
    for row, expected in zip(rows, values, strict=True):
        single = server.infer("digits", {"inputs": [tensor(spec, data=row.tolist())]}).json["outputs"][0]
        np.testing.assert_allclose(single["data"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_a_third_party_client_agrees(
    server: ServerProcess, spec: dict[str, Any], binary_in: bool, binary_out: bool
) -> None:
    client = triton.InferenceServerClient(server.data.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.get_model_metadata("digits") == spec
    data = np.asarray(tensor(spec, 3)["data"], np.float32).reshape(tensor(spec, 3)["shape"])
    given = triton.InferInput(spec["inputs"][0]["name"], list(data.shape), "FP32")
    given.set_data_from_numpy(data, binary_data=binary_in)
    name = spec["outputs"][0]["name"]
    result = client.infer("digits", [given], outputs=[triton.InferRequestedOutput(name, binary_data=binary_out)])
    plain = server.infer("digits", {"inputs": [tensor(spec, 3)]}).json["outputs"][0]
    expected = np.asarray(plain["data"]).reshape(plain["shape"])
    np.testing.assert_allclose(result.as_numpy(name), expected, rtol=1e-3, atol=1e-4)
    best = triton.InferRequestedOutput(name, binary_data=binary_out, class_count=2)
    classes = client.infer("digits", [given], outputs=[best]).as_numpy(name)
    assert classes.shape == (3, 2)
    first = classes[0][0].decode() if binary_out else classes[0][0]
    assert int(first.split(":")[1]) == int(expected[0].argmax())
    everything = client.infer("digits", [given], request_id="r", timeout=15_000_000)
    assert everything.get_response()["id"] == "r"
    client.close()


def test_a_third_party_client_shows_the_error(server: ServerProcess) -> None:
    client = triton.InferenceServerClient(server.data.removeprefix("http://"))
    given = triton.InferInput("wrong", [1, 2], "FP32")
    given.set_data_from_numpy(np.zeros((1, 2), np.float32))
    with pytest.raises(InferenceServerException, match="needs exactly the inputs"):
        client.infer("digits", [given])
    client.close()


def test_one_image_four_ways(server: ServerProcess, spec: dict[str, Any]) -> None:
    raw = server.infer("digits", png(), content_type="image/png").json["outputs"]
    name = spec["inputs"][0]["name"]
    entry = {"name": name, "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(png()).decode()]}
    assert server.infer("digits", {"inputs": [entry]}).json["outputs"] == raw
    assert server.infer("digits", {"inputs": [entry | {"name": "image", "shape": [1, 1]}]}).json["outputs"] == raw
    client = triton.InferenceServerClient(server.data.removeprefix("http://"))
    given = triton.InferInput(name, [1], "BYTES")
    given.set_data_from_numpy(np.array([png()], dtype=object), binary_data=True)
    answer = client.infer("digits", [given]).as_numpy(spec["outputs"][0]["name"])
    np.testing.assert_allclose(answer.ravel(), raw[0]["data"], rtol=1e-5)
    client.close()


ERRORS: list[tuple[dict[str, Any], int, str]] = [
    ({"name": "wrong"}, 422, "needs exactly the inputs"),
    ({"datatype": "INT32", "data": [1] * 64}, 422, "datatype INT32, the model takes FP32"),
    ({"shape": [1, 64, 1, 1]}, 422, "the model takes"),
    ({"data": ROW[:-1]}, 400, "holds 64 elements, data has 63"),
    ({"datatype": "FLOAT"}, 400, "expected one of"),
    ({"datatype": "BYTES", "shape": [1], "data": ["bm8gaW1hZ2U="]}, 422, "image"),
]


@pytest.mark.parametrize(("changes", "status", "message"), ERRORS)
def test_an_invalid_tensor_is_refused_with_what_was_expected(
    server: ServerProcess, spec: dict[str, Any], changes: dict[str, Any], status: int, message: str
) -> None:
    reply = server.infer("digits", {"inputs": [tensor(spec, **changes)]})
    assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json")
    assert message in reply.json["detail"]
    assert reply.json["status"] == status


def test_an_unknown_output_is_refused_before_it_is_computed(server: ServerProcess, spec: dict[str, Any]) -> None:
    reply = server.infer("digits", {"inputs": [tensor(spec)], "outputs": [{"name": "nope"}]})
    assert (reply.status, "no output nope" in reply.json["detail"]) == (422, True)


def test_a_nan_in_the_input_is_the_clients_error(server: ServerProcess, spec: dict[str, Any]) -> None:
    entry = tensor(spec, parameters={"binary_data_size": 256})
    del entry["data"]
    head = json.dumps({"inputs": [entry]}).encode()
    body = head + np.full(64, np.nan, "<f4").tobytes()
    reply = server.infer("digits", body, inference_header_content_length=str(len(head)))
    assert (reply.status, "its input 'input' holds NaN or Inf" in reply.json["detail"]) == (422, True)


def test_a_corrupt_image_says_so(server: ServerProcess) -> None:
    reply = server.infer("digits", png()[:40], content_type="image/png")
    assert reply.status == 422
    assert "image" in reply.json["detail"]


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        ({"x_sponge_slo_ms": "soon"}, 400, "x-sponge-slo-ms"),
        ({"x_sponge_slo_class": "platinum"}, 400, "known: gold"),
        ({"grpc_timeout": "5"}, 400, "grpc-timeout"),
        ({"inference_header_content_length": "99999"}, 400, "Inference-Header-Content-Length"),
        ({"inference_header_content_length": "x"}, 400, "inference-header-content-length"),
        ({"content_type": "text/html"}, 415, "text/html"),
        ({"content_encoding": "br"}, 415, "Content-Encoding"),
        ({"x_sponge_slo_ms": "100", "x_sponge_sent_at": f"{time.time() - 0.5:.3f}"}, 503, "had passed"),
        ({"x_sponge_slo_ms": "0.1"}, (503, 504), ""),
    ],
)
def test_wrong_or_hopeless_headers(
    server: ServerProcess, spec: dict[str, Any], headers: dict[str, str], status: int | tuple[int, ...], message: str
) -> None:
    if "x_sponge_sent_at" in headers:
        headers = headers | {"x_sponge_sent_at": f"{time.time() - 0.5:.3f}"}
    reply = server.infer("digits", {"inputs": [tensor(spec)]}, **headers)
    assert reply.status in (status if isinstance(status, tuple) else (status,))
    assert message in reply.json["detail"]
    if reply.status == 503:
        assert reply.headers["retry-after"] == "1"


def test_an_invalid_body_timeout_is_named(server: ServerProcess, spec: dict[str, Any]) -> None:
    reply = server.infer("digits", {"inputs": [tensor(spec)], "parameters": {"timeout": "soon"}})
    assert (reply.status, "parameters.timeout" in reply.json["detail"]) == (400, True)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v2/models/nope", 404), ("/v2/models/digits/versions/2", 404), ("/nope", 404), ("/v2/models/digits/infer", 405)],
)
def test_unknown_paths_models_and_methods(server: ServerProcess, path: str, status: int) -> None:
    reply = server.get(path)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json")


def test_a_body_announced_too_large_is_refused_at_once(server: ServerProcess) -> None:
    connection = http.client.HTTPConnection(server.data.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", "/v2/models/digits/infer")
    connection.putheader("content-length", str(10**10))
    connection.endheaders()
    reply = connection.getresponse()
    assert (reply.status, reply.headers["connection"]) == (413, "close")
    connection.close()


def test_too_much_json_is_refused_with_the_binary_form(server: ServerProcess) -> None:
    reply = server.infer("digits", b"[" + b"0," * (5 << 20) + b"0]")
    assert (reply.status, "binary" in reply.json["detail"]) == (413, True)


def test_an_implausible_send_time_is_ignored_and_counted(server: ServerProcess, spec: dict[str, Any]) -> None:
    for sent_at in (time.time() + 5, time.time() - 3600):
        assert server.infer("digits", {"inputs": [tensor(spec)]}, x_sponge_sent_at=f"{sent_at:.3f}").status == 200
    assert server.metric('sponge_sent_at_ignored_total{reason="future"}') == 1
    assert server.metric('sponge_sent_at_ignored_total{reason="stale"}') == 1


def test_a_slow_upload_is_seen_and_answered_when_its_deadline_is_lost(server: ServerProcess) -> None:
    connection = http.client.HTTPConnection(server.data.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", "/v2/models/digits/infer")
    connection.putheader("content-length", "1000")
    connection.putheader("content-type", "image/png")
    connection.putheader("x-sponge-slo-ms", "1500")
    connection.endheaders()
    connection.send(b"x" * 100)
    eventually(lambda: server.ask("/control/v1/state").json["uploads_in_flight"] == 1)
    reply = connection.getresponse()
    assert (reply.status, "100 of 1000 bytes" in json.loads(reply.read())["detail"]) == (504, True)
    eventually(lambda: server.ask("/control/v1/state").json["uploads_in_flight"] == 0)
    connection.close()


def refused_early(server: ServerProcess, length: int) -> http.client.HTTPConnection:
    """A connection whose request cannot be met, as its headers say; no byte of its body was sent."""
    connection = http.client.HTTPConnection(server.data.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", "/v2/models/digits/infer")
    connection.putheader("content-length", str(length))
    connection.putheader("content-type", "image/png")
    connection.putheader("x-sponge-slo-ms", "0.5")
    connection.endheaders()
    return connection


def test_a_request_hopeless_by_its_headers_is_refused_unread_and_keeps_its_connection(server: ServerProcess) -> None:
    body = png()
    connection = refused_early(server, len(body))
    reply = connection.getresponse()
    assert (reply.status, "too few" in json.loads(reply.read())["detail"]) == (503, True)
    connection.sock.sendall(body)
    connection.request("POST", "/v2/models/digits/infer", body, {"content-type": "image/png"})
    assert connection.getresponse().status == 200
    connection.close()


def test_a_client_that_writes_before_it_reads_sees_why_it_was_refused(server: ServerProcess) -> None:
    length = 8 << 20
    connection = refused_early(server, length)
    for _ in range(8):
        connection.sock.sendall(bytes(length // 8))
        time.sleep(0.02)
    reply = connection.getresponse()
    assert (reply.status, reply.headers["connection"]) == (503, "close")
    connection.close()


def test_the_timeout_in_a_body_counts_unless_a_header_is_more_specific(
    server: ServerProcess, spec: dict[str, Any]
) -> None:
    document = {"inputs": [tensor(spec)], "parameters": {"timeout": 1}}
    assert server.infer("digits", document).status == 503
    assert server.infer("digits", document, x_sponge_slo_ms="20000").status == 200


def test_a_chunked_body_needs_no_length(server: ServerProcess, spec: dict[str, Any]) -> None:
    body = json.dumps({"inputs": [tensor(spec)]}).encode()
    connection = http.client.HTTPConnection(server.data.removeprefix("http://"), timeout=20)
    connection.request(
        "POST", "/v2/models/digits/infer", iter([body[:50], body[50:]]), {"content-type": "application/json"}
    )
    assert connection.getresponse().status == 200
    connection.close()


def test_the_api_has_a_description(server: ServerProcess) -> None:
    assert b"swagger" in server.get("/docs").body
    document = server.get("/openapi.json").json
    operation = document["paths"]["/v2/models/{model}/infer"]["post"]
    assert {"200", "400", "404", "413", "415", "422", "500", "503", "504"} <= operation["responses"].keys()
    assert document["paths"].keys() >= {"/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/{model}"}
