"""Bounds of requests: derived from the model, and compared before anything is spent, over REST and gRPC alike."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wide_bounds import WIDE

from sponge_server.bounds import Bounds, bounds_of, common
from sponge_server.protocol import oip_json
from sponge_server.protocol.answer_size import answer_bytes
from sponge_server.protocol.grpc_codec import decode
from sponge_server.protocol.message_scan import LONG_MESSAGE_BYTES, check_message
from sponge_server.protocol.oip import InferRequest, OipError, OutputRequest
from sponge_server.protos import inference_pb2 as pb
from sponge_server.workers.interface import ModelInfo, Tensor, TensorSpec

MIB = 1 << 20
HUGE = 2**64 - 1


def info(*inputs: tuple[str, tuple[int, ...]], max_batch: int = 8, images: bool = False) -> ModelInfo:
    specs = tuple(TensorSpec(f"x{index}", kind, shape) for index, (kind, shape) in enumerate(inputs))
    return ModelInfo("m", specs, (TensorSpec("y", "FP32", (10,)),), max_batch, None, images, None, "test")


SMALL = info(("FP32", (8, 8)))
BOUNDS = bounds_of(SMALL, 64 * MIB, 8 * MIB)


def test_the_bounds_follow_the_model() -> None:
    assert (BOUNDS.rows, BOUNDS.inputs, BOUNDS.outputs, BOUNDS.elements) == (1024, 1, 2, 1024 * 64)
    assert BOUNDS.tensor_bytes == 1024 * 64 * 4
    assert BOUNDS.lists == 1 + 1024 + 1024 * 8
    assert BOUNDS.text_bytes < 4 * MIB
    assert bounds_of(info(("FP32", (8, 8)), max_batch=500), 64 * MIB, 8 * MIB).rows == 2000


@pytest.mark.parametrize(("side", "max_batch", "rows"), [(128, 4, 128), (1024, 4, 64), (1024, 20, 80)])
def test_large_rows_are_fewer(side: int, max_batch: int, rows: int) -> None:
    assert bounds_of(info(("FP32", (side, side)), max_batch=max_batch), 64 * MIB, 8 * MIB).rows == rows


def test_sizes_that_may_be_anything_are_bounded_by_the_body() -> None:
    bounds = bounds_of(info(("INT64", (-1,)), ("FP32", (3, -1))), 16 * MIB, 8 * MIB)
    assert (bounds.elements, bounds.body_bytes, bounds.text_bytes) == (4 * MIB, 16 * MIB, 8 * MIB)


def test_a_large_model_is_bounded_by_the_settings() -> None:
    bounds = bounds_of(info(("FP32", (3, 1024, 1024))), 64 * MIB, 8 * MIB)
    assert (bounds.elements, bounds.body_bytes, bounds.tensor_bytes) == (16 * MIB, 64 * MIB, 64 * MIB)


def test_images_may_have_any_size_within_the_settings() -> None:
    bounds = bounds_of(info(("FP32", (8, 8)), images=True), 64 * MIB, 8 * MIB)
    assert (bounds.body_bytes, bounds.text_bytes) == (64 * MIB, 8 * MIB)
    assert bounds.message_bytes < 17 * MIB, "so much is set aside before each one"


def test_a_request_without_a_name_gets_the_widest_bounds() -> None:
    wide = common([BOUNDS, bounds_of(info(("FP32", (8, 8)), ("FP32", (1,)), max_batch=50), MIB, MIB)])
    assert (wide.rows, wide.inputs, wide.body_bytes) == (1024, 2, 8 * MIB)


def rest(shape: list[int], bounds: Bounds, datatype: str = "FP32", **more: Any) -> InferRequest:
    entry = {"name": "x0", "datatype": datatype, "shape": shape, "data": []} | more
    return oip_json.decode(json.dumps({"inputs": [entry]}).encode(), None, bounds)


def rpc(shape: list[int], bounds: Bounds, datatype: str = "FP32") -> InferRequest:
    message = pb.ModelInferRequest(raw_input_contents=[b""])
    message.inputs.add(name="x0", datatype=datatype, shape=[min(size, 2**63 - 1) for size in shape])
    return decode(message, bounds)


@pytest.mark.parametrize("read", [rest, rpc])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([HUGE] * 300, "300 sizes|has 300"),
        ([1] * 3000, "3000 sizes|has 3000"),
        ([HUGE, HUGE], "more than 65536 elements"),
        ([HUGE, 0], "more than 65536 elements"),
        ([65537], "more than 65536 elements"),
        ([1025, 64], "more than 65536 elements"),
    ],
)
def test_shapes_are_bounded_before_they_are_multiplied(
    read: Callable[[list[int], Bounds], InferRequest], shape: list[int], message: str
) -> None:
    with pytest.raises(OipError, match=message):
        read(shape, BOUNDS)


@given(st.lists(st.integers(1, HUGE) | st.integers(1, 9), max_size=12))
def test_any_shape_is_refused_without_data(shape: list[int]) -> None:
    with pytest.raises(OipError, match=r"more than 65536 elements|holds \d{1,5} elements|has \d+ sizes"):
        rest(shape, BOUNDS)


@pytest.mark.parametrize("count", [1025, 2_000_000])
def test_strings_are_counted_before_they_are_unpacked(count: int) -> None:
    for read in (rest, rpc):
        with pytest.raises(OipError, match="more than 1024 elements"):
            read([count], BOUNDS, "BYTES")
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 4 * count}}]}
    ).encode()
    with pytest.raises(OipError, match="holds 1 elements, the binary data has more"):
        oip_json.decode(body + bytes(4 * count), len(body), BOUNDS)


@pytest.mark.parametrize(("what", "count"), [("inputs", 2), ("outputs", 3), ("outputs", 3000)])
def test_inputs_and_outputs_are_counted(what: str, count: int) -> None:
    document = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]} | {what: [{}] * count}
    message = pb.ModelInferRequest()
    for _ in range(count):
        getattr(message, what).add()
    wanted = f"{count} {what}, the model takes at most"
    with pytest.raises(OipError, match=wanted):
        oip_json.decode(json.dumps(document).encode(), None, BOUNDS)
    with pytest.raises(OipError, match=wanted):
        decode(message, BOUNDS)


def test_an_output_is_requested_once_as_a_tensor_and_once_as_classes() -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    ranked = {"name": "y", "parameters": {"classification": 2}}

    def read(*outputs: dict[str, Any]) -> InferRequest:
        return oip_json.decode(json.dumps({"inputs": [entry], "outputs": outputs}).encode(), None, BOUNDS)

    assert len(read({"name": "y"}, ranked).outputs) == 2
    for twice in ({"name": "y"}, ranked):
        with pytest.raises(OipError, match="requested twice"):
            read(twice, twice)


def test_errors_quote_little_of_what_was_sent() -> None:
    for wrong in ({"name": "x" * MIB}, {"datatype": "F" * MIB}, {"parameters": {"binary_data_size": "9" * MIB}}):
        with pytest.raises(OipError) as error:
            rest([1], WIDE, **({"datatype": "FP31"} | wrong))
        assert len(str(error.value)) < 1000


def field(number: int, data: bytes) -> bytes:
    size, prefix = len(data), b""
    while size > 127:
        prefix += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + prefix + bytes([size]) + data


PADDING = field(7, bytes(LONG_MESSAGE_BYTES))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (field(5, b"") * 40_000, "fields"),
        (field(6, b"") * 40_000, "fields"),
        (field(4, b"") * 40_000, "fields"),
        (field(7, b"") * 40_000, "fields"),
        (field(5, field(4, b"") * 40_000), "fields"),
        (field(5, field(5, field(8, b"") * 40_000)), "fields"),
        (field(5, field(5, (b"\x35" + struct.pack("<f", 1.0)) * 20_000)), "fields"),
        (field(5, field(3, bytes(100_000))), "sizes"),
        (field(5, field(5, field(3, bytes(100_000)))), "elements"),
        (PADDING + b"\x0b" * 100, "groups"),
        (PADDING + b"\x2a\xff", "cut off"),
        (PADDING + b"\xff" * 20, "cut off"),
        (PADDING + b"\x39\0", "cut off"),
        (field(5, b"\x2a\x09" + bytes(70_000)), "cut off|fields|sizes"),
    ],
)
def test_a_message_is_counted_before_it_is_unpacked(raw: bytes, message: str) -> None:
    with pytest.raises(OipError, match=message):
        check_message(raw, BOUNDS)


@given(st.binary(max_size=200))
def test_any_bytes_are_counted_or_refused(raw: bytes) -> None:
    try:
        check_message(raw, BOUNDS)
    except OipError:
        return


def test_a_message_that_fits_passes() -> None:
    message = pb.ModelInferRequest(model_name="m", id="7", raw_input_contents=[bytes(MIB)])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 8, 8]).parameters["a"].int64_param = 1
    message.outputs.add(name="y").parameters["classification"].int64_param = 3
    message.inputs.add(name="z").contents.fp32_contents.extend([1.0] * 4096)
    check_message(message.SerializeToString(), BOUNDS)


def test_the_size_of_an_answer_is_known_from_what_is_asked_for() -> None:
    outputs = (TensorSpec("y", "FP32", (1000,)), TensorSpec("z", "FP64", (-1,)))
    text = answer_bytes(InferRequest(), outputs, 2)
    binary = answer_bytes(InferRequest(binary=True), outputs, 2)
    assert 2 * 4008 + 2 * 1001 * 10 < text < 100_000
    assert binary == 2 * 2 * 4008
    ranked = InferRequest(outputs=(OutputRequest("y", False, 10**9),))
    assert answer_bytes(ranked, outputs, 2) > 2 * 1000 * 40
    came = Tensor("z", "FP64", (2, 5000), bytes(80_000))
    assert answer_bytes(InferRequest(binary=True), [came], 2) == 160_000
