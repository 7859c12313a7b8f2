"""The codec of the client, read back by the server's own; padding to the byte; unreadable answers."""

from __future__ import annotations

import numpy as np
import pytest
from wide_bounds import WIDE

from sponge_client.errors import LoadError, ServerError
from sponge_client.oip import ModelMetadata, Tensor, TensorSpec, decode, encode
from sponge_client.payloads import image_bodies, tensor_bodies
from sponge_server.protocol import oip_json as server_oip
from sponge_server.protocol.oip import InferRequest
from sponge_server.workers import interface

IMAGE_MODEL = ModelMetadata("m", (TensorSpec("image", "BYTES", (-1,)),))
TENSOR_MODEL = ModelMetadata("m", (TensorSpec("x", "FP32", (-1, 3, -1, 8)), TensorSpec("n", "INT64", (-1,))))


def test_the_server_reads_what_the_client_writes() -> None:
    values = np.arange(6, dtype="<f4")
    body = encode([Tensor("x", "FP32", (1, 2, 3), values.tobytes()), Tensor.of_images("image", [b"one", b"three"])])
    request = server_oip.decode(body.data, body.header_length, WIDE)
    assert request.binary
    assert (request.tensors[0].name, request.tensors[0].shape) == ("x", (1, 2, 3))
    assert bytes(request.tensors[0].data) == values.tobytes()
    assert [bytes(value) for value in request.strings[0].values] == [b"one", b"three"]


@pytest.mark.parametrize("binary", [True, False])
def test_the_client_reads_what_the_server_writes(binary: bool) -> None:
    outputs = [interface.Tensor("y", "FP32", (1, 2), np.array([0.5, 2.0], "<f4").tobytes())]
    content, length = server_oip.encode("m", "1", InferRequest(binary=binary), outputs)
    headers = {} if length is None else {"inference-header-content-length": str(length)}
    assert decode(headers, content)["y"].tolist() == [[0.5, 2.0]]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"outputs": [{"name": "y"}]}', b"\xff"])
def test_an_unreadable_answer_is_an_error_of_the_server(body: bytes) -> None:
    with pytest.raises(ServerError, match="cannot be read"):
        decode({}, body)


def test_metadata() -> None:
    document = {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]}
    assert ModelMetadata.parse(document) == ModelMetadata("m", (TensorSpec("x", "FP32", (-1, 3)),))
    with pytest.raises(ServerError, match="metadata cannot be read"):
        ModelMetadata.parse({"error": "no"})
    with pytest.raises(ServerError, match="declares no inputs"):
        ModelMetadata.parse({"name": "m", "inputs": []})


@pytest.mark.parametrize(
    ("specs", "image_like"),
    [
        ([("x", "FP32", (-1, 3, 224, 224))], True),
        ([("x", "BYTES", (-1,))], True),
        ([("x", "FP32", (-1, 1, 8, 8))], False),
        ([("x", "FP32", (-1, 3, 8, 8)), ("y", "FP32", (-1, 3, 8, 8))], False),
    ],
)
def test_what_looks_like_an_image(specs: list[tuple[str, str, tuple[int, ...]]], image_like: bool) -> None:
    assert ModelMetadata("m", tuple(TensorSpec(*spec) for spec in specs)).image_like is image_like


def test_tensor_bodies_match_the_declared_inputs_and_the_seed() -> None:
    bodies = tensor_bodies(TENSOR_MODEL, None, seed=1)
    request = server_oip.decode(bodies[0].data, bodies[0].header_length, WIDE)
    assert [(tensor.name, tensor.shape) for tensor in request.tensors] == [("x", (1, 3, 224, 8)), ("n", (1,))]
    assert bodies == tensor_bodies(TENSOR_MODEL, None, seed=1) != tensor_bodies(TENSOR_MODEL, None, seed=2)


def test_image_bodies_are_photographs_that_still_decode_when_padded() -> None:
    import io

    from PIL import Image

    for size in (None, 9_999, 100_000, 100_001, 303_600):
        bodies = image_bodies(IMAGE_MODEL, size)
        assert len({body.data for body in bodies}) == len(bodies) == 4
        for body in bodies:
            assert size is None or len(body.data) == size
            (strings,) = server_oip.decode(body.data, body.header_length, WIDE).strings
            assert Image.open(io.BytesIO(strings.values[0])).convert("RGB").size == (256, 256)


def test_a_size_that_cannot_be_met_is_refused_with_the_one_that_can() -> None:
    with pytest.raises(LoadError, match=r"--payload-bytes 100: .* needs at least \d+ bytes"):
        image_bodies(IMAGE_MODEL, 100)
    with pytest.raises(LoadError, match=r"--payload-bytes 100: .* leave the option out or give \d+"):
        tensor_bodies(TENSOR_MODEL, 100, seed=1)
