"""Requests of more rows than the largest batch: split over batches, joined in order, one deadline for all rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from server_process import Reply, ServerProcess

from sponge_server.protos import inference_pb2 as pb

pytestmark = pytest.mark.torch

MOST = 1024
"""Rows that the server takes at once of a model with small rows."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = ("--model", "digits=python://digits_shaped:factory", "--slo-ms", "30000", "--cores", "1")
    server = ServerProcess(tmp_path_factory.mktemp("digits"), *options, "--max-batch", "8", gamma_ms=0.2)
    yield server
    assert server.stop() == 0


def rows_of(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(count).random((count, 1, 8, 8), dtype=np.float32)


def by_json(server: ServerProcess, rows: np.ndarray[Any, Any], **headers: str) -> Reply:
    entry = {"name": "input", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    return server.infer("digits", {"inputs": [entry]}, **headers)


def by_binary(server: ServerProcess, rows: np.ndarray[Any, Any], **headers: str) -> Reply:
    entry = {"name": "input", "datatype": "FP32", "shape": list(rows.shape)}
    head = json.dumps({"inputs": [entry | {"parameters": {"binary_data_size": rows.nbytes}}]}).encode()
    return server.infer("digits", head + rows.tobytes(), inference_header_content_length=str(len(head)), **headers)


def by_grpc(server: ServerProcess, rows: np.ndarray[Any, Any]) -> tuple[list[int], np.ndarray[Any, Any]]:
    request = pb.ModelInferRequest(model_name="digits", raw_input_contents=[rows.tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=rows.shape)
    answer = pb.ModelInferResponse.FromString(server.call("ModelInfer", request.SerializeToString()))
    return list(answer.outputs[0].shape), np.frombuffer(answer.raw_output_contents[0], "<f4")


@pytest.mark.parametrize("count", [8, 9, 33, 100, MOST])
def test_rows_come_back_in_order_over_every_protocol(server: ServerProcess, count: int) -> None:
    rows = rows_of(count)
    reply = by_binary(server, rows)
    assert (reply.status, reply.json["outputs"][0]["shape"]) == (200, [count, 10])
    found = np.asarray(reply.json["outputs"][0]["data"]).reshape(count, 10)
    np.testing.assert_allclose(by_json(server, rows).json["outputs"][0]["data"], found.ravel(), rtol=1e-3, atol=1e-4)
    shape, values = by_grpc(server, rows)
    assert shape == [count, 10]
    np.testing.assert_allclose(values, found.ravel(), rtol=1e-3, atol=1e-4)
    for index in (0, 7, 8 % count, count - 1):
        alone = by_binary(server, rows[index : index + 1]).json["outputs"][0]["data"]
        np.testing.assert_allclose(alone, found[index], rtol=1e-3, atol=1e-4)


def test_no_batch_is_larger_than_the_largest(server: ServerProcess) -> None:
    assert by_binary(server, rows_of(50)).status == 200
    sizes = [
        entry["batch_size"] for entry in server.get("/v2/models/digits/stats").json["model_stats"][0]["batch_stats"]
    ]
    assert max(sizes) <= 8


def test_more_rows_than_the_server_takes_at_once_are_refused_over_every_protocol(server: ServerProcess) -> None:
    rows = rows_of(MOST + 1)
    for reply in (by_binary(server, rows), by_json(server, rows)):
        assert reply.status in (400, 422)
        assert "at most" in reply.json["detail"] or "the most that" in reply.json["detail"]
    with pytest.raises(grpc.RpcError) as refused:
        by_grpc(server, rows)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_all_rows_share_one_deadline(server: ServerProcess) -> None:
    reply = by_binary(server, rows_of(MOST), x_sponge_slo_ms="20")
    assert reply.status in (503, 504)
    assert by_binary(server, rows_of(1)).status == 200
