"""Every datatype of the protocol in each of its forms: JSON, binary, typed contents and raw contents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from server_process import ServerProcess

from sponge_core.datatypes import NUMPY_TYPES
from sponge_server.protocol.grpc_codec import CONTENTS
from sponge_server.protos import inference_pb2 as pb
from sponge_server.workers.interface import DATATYPE_SIZE

pytestmark = pytest.mark.torch

ROWS = 3
Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = ("--model", "m=python://typed_models:every", "--slo-ms", "20000", "--cores", "1", "--max-batch", "2")
    server = ServerProcess(tmp_path_factory.mktemp("m"), *options)
    yield server
    assert server.stop() == 0


def values(datatype: str) -> np.ndarray[Any, Any]:
    """Three by three elements with the ends of the range, as numpy has them; BF16 as its bits."""
    if datatype == "BF16":
        return np.array([0x3F80, 0xC000, 0x3F00] * ROWS, "<u2").reshape(ROWS, 3)
    dtype = NUMPY_TYPES[datatype]
    if dtype.kind == "b":
        return np.array([True, False, True] * ROWS).reshape(ROWS, 3)
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return np.array([limits.min, limits.max, 1] * ROWS, dtype).reshape(ROWS, 3)


EVERY: Arrays = {datatype: values(datatype) for datatype in DATATYPE_SIZE}


def check(found: Arrays, names: list[str]) -> None:
    assert found.keys() == set(names)
    for name in names:
        np.testing.assert_array_equal(found[name], EVERY[name])


def test_the_metadata_names_them_all(server: ServerProcess) -> None:
    inputs = server.get("/v2/models/m").json["inputs"]
    assert [entry["datatype"] for entry in inputs] == list(DATATYPE_SIZE)


def entry(datatype: str, **rest: Any) -> dict[str, Any]:
    return {"name": datatype.lower(), "datatype": datatype, "shape": [ROWS, 3], **rest}


@pytest.mark.parametrize("binary_output", [False, True])
def test_binary_form(server: ServerProcess, binary_output: bool) -> None:
    inputs = [entry(kind, parameters={"binary_data_size": array.nbytes}) for kind, array in EVERY.items()]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": binary_output}}).encode()
    body = head + b"".join(array.tobytes() for array in EVERY.values())
    reply = server.infer("m", body, inference_header_content_length=str(len(head)))
    assert reply.status == 200, reply.body
    if binary_output:
        length = int(reply.headers["inference-header-content-length"])
        check(binary_outputs(json.loads(reply.body[:length]), reply.body[length:]), list(EVERY))
    else:
        check(text_outputs(reply.json), list(EVERY))


def binary_outputs(document: Any, rest: bytes) -> Arrays:
    found, at = {}, 0
    for output in document["outputs"]:
        size = output["parameters"]["binary_data_size"]
        dtype = NUMPY_TYPES.get(output["datatype"], np.dtype("<u2"))
        found[output["name"]] = np.frombuffer(rest[at : at + size], dtype).reshape(output["shape"])
        at += size
    return found


def text_outputs(document: Any) -> Arrays:
    found = {}
    for output in document["outputs"]:
        datatype = output["datatype"]
        if datatype == "BF16":
            bits = np.asarray(output["data"], "<f4").view("<u4") >> 16
            found[output["name"]] = bits.astype("<u2").reshape(output["shape"])
        else:
            found[output["name"]] = np.asarray(output["data"], NUMPY_TYPES[datatype]).reshape(output["shape"])
    return found


def test_json_form(server: ServerProcess) -> None:
    """All but BF16, which has none."""
    size = EVERY["BF16"].nbytes
    inputs = [entry(kind, data=EVERY[kind].tolist()) for kind in NUMPY_TYPES]
    inputs.append(entry("BF16", parameters={"binary_data_size": size}))
    head = json.dumps({"inputs": inputs}).encode()
    reply = server.infer("m", head + EVERY["BF16"].tobytes(), inference_header_content_length=str(len(head)))
    assert reply.status == 200, reply.body
    check(text_outputs(reply.json), list(EVERY))


def by_grpc(server: ServerProcess, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    return pb.ModelInferResponse.FromString(server.call("ModelInfer", request.SerializeToString()))


def test_raw_contents(server: ServerProcess) -> None:
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[array.tobytes() for array in EVERY.values()])
    for kind in EVERY:
        request.inputs.add(name=kind.lower(), datatype=kind, shape=[ROWS, 3])
    answer = by_grpc(server, request)
    found = {}
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        dtype = NUMPY_TYPES.get(output.datatype, np.dtype("<u2"))
        found[output.name] = np.frombuffer(raw, dtype).reshape(output.shape)
    check(found, list(EVERY))


@pytest.mark.parametrize("datatype", [kind for kind in DATATYPE_SIZE if kind in CONTENTS])
def test_typed_contents_of_each_datatype_are_read(server: ServerProcess, datatype: str) -> None:
    """The others have no typed form, so the server asks for what is missing and not for another form."""
    request = pb.ModelInferRequest(model_name="m")
    given = request.inputs.add(name=datatype.lower(), datatype=datatype, shape=[ROWS, 3])
    getattr(given.contents, CONTENTS[datatype]).extend(EVERY[datatype].ravel().tolist())
    with pytest.raises(grpc.RpcError, match="needs exactly the inputs"):
        by_grpc(server, request)


@pytest.mark.parametrize("datatype", [*DATATYPE_SIZE, "BYTES"])
def test_every_datatype_is_known_though_this_input_takes_another(server: ServerProcess, datatype: str) -> None:
    head = json.dumps(
        {"inputs": [entry(datatype, name="x", shape=[1, 1], parameters={"binary_data_size": 0})]}
    ).encode()
    reply = server.infer("m", head, inference_header_content_length=str(len(head)))
    assert reply.status in (400, 422)
    assert "expected one of" not in reply.json["detail"]
