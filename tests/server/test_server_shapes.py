"""Outputs with a number of entries for each row, inputs of many sizes in one batch, and requests without rows."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from lane_pool import importable_models
from PIL import Image
from server_process import ServerProcess

from sponge_server.protocol.oip import pack_strings
from sponge_server.protos import inference_pb2 as pb
from sponge_server.workers.interface import Item, ModelSpec, Tensor
from sponge_server.workers.pool import WorkerPool
from sponge_server.workers.strings import unpacked

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    options = ("--model", "find=python://shaped_models:Finder", "--model", "scale=python://shaped_models:Scaled")
    running = ServerProcess(tmp_path_factory.mktemp("s"), *options, "--slo-ms", "30000", "--cores", "1")
    yield running
    assert running.stop() == 0


def pixels(count: int, high: int = 2, wide: int = 3) -> np.ndarray:
    return np.full((high, wide, 3), count, np.uint8)


def png(array: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def table(values: list[list[float]], by: int, **rest: Any) -> dict[str, Any]:
    inputs = [
        {"name": "table", "datatype": "FP32", "shape": [len(values), len(values[0])], "data": values},
        {"name": "by", "datatype": "INT64", "shape": [], "data": [by]},
    ]
    return {"inputs": inputs, **rest}


def by_name(answer: Any) -> dict[str, dict[str, Any]]:
    assert answer.status == 200, answer.body
    return {output["name"]: output for output in answer.json["outputs"]}


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_row_has_as_many_entries_as_the_model_found(server: ServerProcess, count: int) -> None:
    rows = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 3, 3], "data": pixels(count).ravel().tolist()}
    outputs = by_name(server.infer("find", {"inputs": [rows]}))
    assert (outputs["boxes"]["datatype"], outputs["boxes"]["shape"]) == ("FP32", [count, 4])
    assert np.reshape(outputs["boxes"]["data"], (-1, 4)).tolist() == [[n, 0, 2, 3] for n in range(count)]
    assert (outputs["label"]["datatype"], outputs["label"]["shape"]) == ("BYTES", [count])
    assert outputs["label"]["data"] == [f"box {n}" for n in range(count)]
    assert [outputs[f"{name}_lengths"]["data"] for name in ("boxes", "label")] == [[count], [count]]
    assert (outputs["size"]["shape"], outputs["size"]["data"]) == ([1, 2], [2, 3])


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_images_of_many_sizes_share_a_request(server: ServerProcess, form: str) -> None:
    counts, shapes = (2, 0, 3), ((2, 3), (40, 5), (1, 1))
    options = {"lossless": True} if form == "WEBP" else {}
    encoded = [png(pixels(n, *shape), form, **options) for n, shape in zip(counts, shapes, strict=True)]
    packed = pack_strings(encoded)
    entry = {"name": "image", "datatype": "BYTES", "shape": [3], "parameters": {"binary_data_size": len(packed)}}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    answer = server.infer("find", head + packed, inference_header_content_length=str(len(head)))
    assert answer.status == 200, answer.body
    length = int(answer.headers["inference-header-content-length"])
    found, at = {}, length
    for output in json.loads(answer.body[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = (output["shape"], answer.body[at : at + size])
        at += size
    assert found["boxes"][0] == [5, 4]
    boxes = np.frombuffer(found["boxes"][1], np.float32).reshape(5, 4)
    assert boxes[:, 0].tolist() == [0, 1, 0, 1, 2]
    assert boxes[2:, 2:].tolist() == [[1, 1]] * 3
    assert np.frombuffer(found["boxes_lengths"][1], np.int64).tolist() == list(counts)
    assert [bytes(text).decode() for text in unpacked(found["label"][1])] == [
        f"box {n}" for c in counts for n in range(c)
    ]
    assert np.frombuffer(found["size"][1], np.int64).reshape(3, 2).tolist() == [list(shape) for shape in shapes]


def test_an_image_is_a_body(server: ServerProcess) -> None:
    outputs = by_name(server.infer("find", png(pixels(2, 7, 9), "WEBP", lossless=True), content_type="image/webp"))
    assert outputs["size"]["data"] == [7, 9]
    refused = server.infer("find", png(pixels(13)), content_type="image/png")
    assert (refused.status, refused.json["detail"]) == (422, "13 is unlucky")


@pytest.mark.parametrize("raw", [False, True])
def test_grpc_has_the_same_shapes(server: ServerProcess, raw: bool) -> None:
    message = pb.ModelInferRequest(model_name="find")
    rows = message.inputs.add(name="image", datatype="UINT8", shape=[2, 1, 1, 3])
    if raw:
        message.raw_input_contents.append(bytes([0, 0, 0, 2, 2, 2]))
    else:
        rows.contents.uint_contents.extend([0, 0, 0, 2, 2, 2])
    answer = pb.ModelInferResponse.FromString(server.call("ModelInfer", message.SerializeToString()))
    shapes = {output.name: list(output.shape) for output in answer.outputs}
    assert shapes == {"boxes": [2, 4], "boxes_lengths": [2], "label": [2], "label_lengths": [2], "size": [2, 2]}
    lengths = next(i for i, output in enumerate(answer.outputs) if output.name == "boxes_lengths")
    told = (
        np.frombuffer(answer.raw_output_contents[lengths], np.int64)
        if raw
        else answer.outputs[lengths].contents.int64_contents
    )
    assert list(told) == [0, 2]


def test_only_the_requested_outputs_come(server: ServerProcess) -> None:
    ask = [{"name": "boxes_lengths"}, {"name": "boxes", "parameters": {"classification": 2}}]
    rows = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [2, 2, 2]}
    outputs = by_name(server.infer("find", {"inputs": [rows], "outputs": ask}))
    assert list(outputs) == ["boxes_lengths", "boxes"]
    assert outputs["boxes"]["shape"] == [2, 2]


def test_metadata_and_configuration_tell_the_shapes(server: ServerProcess) -> None:
    told = server.get("/v2/models/find").json
    assert told["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert {output["name"]: output["shape"] for output in told["outputs"]} == {
        "boxes": [-1, 4],
        "boxes_lengths": [-1],
        "label": [-1],
        "label_lengths": [-1],
        "size": [-1, 2],
    }
    config = server.get("/v2/models/find/config").json
    assert config["input"][0]["allow_ragged_batch"] is True
    told = server.get("/v2/models/scale").json
    assert [spec["shape"] for spec in told["inputs"]] == [[-1, -1], []]
    assert [spec["shape"] for spec in told["outputs"]] == [[-1, -1], [], [1]]
    assert server.get("/v2/models/scale/config").json["max_batch_size"] == 0
    metadata = pb.ModelMetadataResponse.FromString(
        server.call("ModelMetadata", pb.ModelMetadataRequest(name="scale").SerializeToString())
    )
    assert [list(spec.shape) for spec in metadata.inputs] == [[-1, -1], []]


def test_a_request_without_rows_is_one_run(server: ServerProcess) -> None:
    outputs = by_name(server.infer("scale", table([[1, 2], [3, 4], [5, 6]], 10)))
    assert (outputs["scaled"]["shape"], outputs["scaled"]["data"]) == ([3, 2], [10, 20, 30, 40, 50, 60])
    assert (outputs["total"]["shape"], outputs["total"]["data"]) == ([], [210])
    assert (outputs["words"]["shape"], outputs["words"]["data"]) == ([1], ["3 rows"])


def test_a_request_without_rows_over_grpc(server: ServerProcess) -> None:
    message = pb.ModelInferRequest(model_name="scale")
    message.inputs.add(name="table", datatype="FP32", shape=[1, 2])
    message.inputs.add(name="by", datatype="INT64", shape=[])
    message.raw_input_contents.extend([np.array([1, 2], np.float32).tobytes(), np.array(3).tobytes()])
    answer = pb.ModelInferResponse.FromString(server.call("ModelInfer", message.SerializeToString()))
    assert [list(output.shape) for output in answer.outputs] == [[1, 2], [], [1]]
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [3, 6]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            table([[1.0]], 2) | {"inputs": table([[1.0]], 2)["inputs"][:1]},
            "needs exactly the inputs table (FP32 [-1, -1])",
        ),
        (
            {
                "inputs": [
                    {"name": "table", "datatype": "FP32", "shape": [2], "data": [1, 2]},
                    table([[1]], 1)["inputs"][1],
                ]
            },
            "input table has shape [2], the model takes [-1, -1]",
        ),
    ],
)
def test_wrong_shapes_are_told_as_clients_see_them(server: ServerProcess, document: Any, message: str) -> None:
    answer = server.infer("scale", document)
    assert (answer.status, message in answer.json["detail"]) == (422, True), answer.body


def test_one_number_has_a_classification_too(server: ServerProcess) -> None:
    ask = [{"name": "total", "parameters": {"classification": 1}}]
    assert by_name(server.infer("scale", table([[1.5]], 2, outputs=ask)))["total"]["data"] == ["3.000000:0"]


async def test_rows_of_every_size_run_together() -> None:
    def item(entries: int, rows: int, texts: int) -> Item:
        x = Tensor("x", "FP32", (rows, entries, 2), np.ones((rows, entries, 2), np.float32).tobytes())
        return Item((x, Tensor("text", "BYTES", (rows, texts), pack_strings([b"a"] * rows * texts))))

    with importable_models():
        pool = WorkerPool([ModelSpec("m", "python://shaped_models:Counted", max_batch=8)])
        try:
            await pool.start(1)
            result = await pool.lanes[0].run([item(1, 1, 2), item(5, 2, 1), item(3, 1, 4)], 1)
        finally:
            await pool.close()
    given = []
    for outputs in result.outputs:
        assert isinstance(outputs, tuple), outputs
        types = (np.float32, np.int64, np.int64)
        given.append([np.frombuffer(one.data, kind).tolist() for one, kind in zip(outputs, types, strict=True)])
    assert given == [[[2], [2], [4]], [[10, 10], [1, 1], [4, 4]], [[6], [4], [4]]]
