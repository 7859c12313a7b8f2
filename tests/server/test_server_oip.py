"""The REST codec: round trips in both forms, and every kind of invalid body."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from wide_bounds import WIDE

from sponge_core.datatypes import NUMPY_TYPES
from sponge_server.protocol.oip import InferRequest, OipError, OutputRequest, pack_strings, unpack_strings
from sponge_server.protocol.oip_json import decode, encode
from sponge_server.workers.interface import DATATYPE_SIZE, Tensor


def read(content: bytes, header_length: int | None) -> InferRequest:
    return decode(content, header_length, WIDE)


"""A busy machine is no failure."""


def body(*inputs: dict[str, Any], **rest: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **rest}).encode()


def entry(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]} | changes


arrays = st.sampled_from(sorted(NUMPY_TYPES)).flatmap(
    lambda datatype: npst.arrays(
        NUMPY_TYPES[datatype],
        npst.array_shapes(max_dims=4, max_side=4),
        elements=npst.from_dtype(NUMPY_TYPES[datatype], allow_nan=False, allow_infinity=False),
    ).map(lambda array: (datatype, array))
)


@given(arrays)
def test_a_json_tensor_arrives_bit_for_bit(case: tuple[str, np.ndarray[Any, Any]]) -> None:
    datatype, array = case
    request = read(body(entry(datatype=datatype, shape=list(array.shape), data=array.tolist())), None)
    (tensor,) = request.tensors
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", datatype, array.shape)
    assert bytes(tensor.data) == array.tobytes()


@given(arrays, arrays)
def test_binary_tensors_arrive_bit_for_bit_in_the_order_of_the_inputs(
    first: tuple[str, np.ndarray[Any, Any]], second: tuple[str, np.ndarray[Any, Any]]
) -> None:
    head = body(
        *(
            {
                "name": name,
                "datatype": datatype,
                "shape": list(array.shape),
                "parameters": {"binary_data_size": array.nbytes},
            }
            for name, (datatype, array) in {"a": first, "b": second}.items()
        )
    )
    request = read(head + first[1].tobytes() + second[1].tobytes(), len(head))
    assert [bytes(tensor.data) for tensor in request.tensors] == [first[1].tobytes(), second[1].tobytes()]


@given(arrays, st.booleans())
def test_an_output_comes_back_bit_for_bit(case: tuple[str, np.ndarray[Any, Any]], binary: bool) -> None:
    datatype, array = case
    tensor = Tensor("y", datatype, array.shape, array.tobytes())
    content, json_length = encode("m", "1", InferRequest(binary=binary), [tensor])
    document = orjson.loads(content[:json_length])
    (output,) = document["outputs"]
    if binary:
        assert json_length is not None
        assert output["parameters"]["binary_data_size"] == array.nbytes
        assert content[json_length:] == array.tobytes()
    else:
        assert json_length is None
        again = np.array(output["data"], dtype=NUMPY_TYPES[datatype]).reshape(output["shape"])
        np.testing.assert_array_equal(again, array)


@given(st.lists(st.binary(max_size=50)))
def test_strings_survive_packing(values: list[bytes]) -> None:
    assert [bytes(value) for value in unpack_strings(memoryview(pack_strings(values)), "x", len(values))] == values


@given(st.binary(max_size=60), st.one_of(st.none(), st.integers(min_value=0, max_value=70)))
def test_any_body_is_decoded_or_refused(data: bytes, header_length: int | None) -> None:
    with contextlib.suppress(OipError):
        read(data, header_length)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["name", "datatype", "shape", "data", "parameters"]),
        json_values | st.sampled_from(["x", "FP32", "BYTES", [1], [2, 2], [1.0], {"binary_data_size": 4}]),
    )
)
def test_any_input_is_decoded_or_refused(item: dict[str, Any]) -> None:
    with contextlib.suppress(OipError, orjson.JSONEncodeError):
        read(orjson.dumps({"inputs": [item]}), None)


def test_images_as_strings_in_json_and_in_binary_form() -> None:
    images = [b"\xff\xd8one", b"\x89PNGtwo"]
    texts = [base64.b64encode(image).decode() for image in images]
    (given_json,) = read(body(entry(datatype="BYTES", data=texts)), None).strings
    packed = pack_strings(images)
    head = body({"name": "x", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(packed)}})
    (given_binary,) = read(head + packed, len(head)).strings
    assert [bytes(value) for value in given_json.values] == images
    assert [bytes(value) for value in given_binary.values] == images


def test_a_request_with_id_parameters_and_outputs() -> None:
    request = read(
        body(
            entry(),
            id="r1",
            parameters={"timeout": 5000, "binary_data_output": True, "priority": 1},
            outputs=[{"name": "y"}, {"name": "z", "parameters": {"binary_data": False, "classification": 3}}],
        ),
        None,
    )
    assert request.id == "r1"
    assert request.timeout_us == 5000
    assert request.outputs == (OutputRequest("y", True), OutputRequest("z", False, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datatype": "FP31"}, "datatype is 'FP31', expected one of"),
        ({"shape": [3]}, r"shape \[3\] holds 3 elements, data has 2"),
        ({"shape": "2"}, "expected a list of sizes"),
        ({"shape": [-1, 2]}, "expected a list of sizes"),
        ({"shape": [True, 2]}, "expected a list of sizes"),
        ({"data": [[1.0], [2.0, 3.0]]}, "ragged"),
        ({"data": ["1", "2"]}, "does not hold FP32"),
        ({"data": [None, 1.0]}, "does not hold FP32"),
        ({"data": {"a": 1}}, "needs either a list"),
        ({"data": None}, "needs either a list"),
        ({"datatype": "INT8", "data": [1, 128]}, "-128 to 127"),
        ({"datatype": "UINT8", "data": [-1, 1]}, "0 to 255"),
        ({"datatype": "INT64", "data": [1.5, 2.0]}, "does not hold INT64"),
        ({"datatype": "UINT16", "data": [1, 65536]}, "0 to 65535"),
        ({"datatype": "UINT32", "data": [-1, 1]}, "0 to 4294967295"),
        ({"datatype": "UINT64", "data": [-1, 1]}, "0 to 18446744073709551615"),
        ({"datatype": "UINT64", "data": [-1, 1 << 63]}, "does not hold UINT64"),
        ({"datatype": "UINT64", "data": [1.0, 1 << 63]}, "does not hold UINT64"),
        ({"datatype": "INT64", "data": [0, 1 << 63]}, "does not hold INT64"),
        ({"datatype": "BOOL", "data": [0, 1]}, "does not hold BOOL"),
        ({"datatype": "BF16"}, "no JSON form"),
        ({"datatype": "BYTES", "data": ["*", "?"]}, "base64"),
        ({"datatype": "BYTES", "data": [1, 2]}, "base64"),
        ({"datatype": "BYTES", "data": ["YQ=="]}, "holds 2 elements, data has 1"),
        ({"name": ""}, 'needs a "name"'),
        ({"parameters": []}, "must be a JSON object"),
        ({"parameters": {"binary_data_size": 8}}, "0 bytes are left"),
        ({"parameters": {"binary_data_size": "8"}}, "binary_data_size is '8'"),
    ],
)
def test_an_invalid_input_is_refused_with_what_was_expected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OipError, match=message):
        read(body(entry(**changes)), None)


@pytest.mark.parametrize("numbers", [[0, 2**64 - 1], [2**63, 1], [2**53 + 1, 2**63 + 1], [5, 7], [True, False]])
def test_large_numbers_stay_exact(numbers: list[int]) -> None:
    """A list with numbers on both sides of 2^63 is one of floats to numpy."""
    (tensor,) = read(body(entry(datatype="UINT64", data=numbers)), None).tensors
    assert np.frombuffer(tensor.data, "<u8").tolist() == numbers


def test_deeply_nested_data_is_refused_not_followed() -> None:
    nested: Any = "YQ=="
    for _ in range(200):
        nested = [nested]
    for datatype in ("BYTES", "FP32"):
        with pytest.raises(OipError):
            read(body(entry(datatype=datatype, shape=[1], data=nested)), None)


@pytest.mark.parametrize(
    ("content", "header_length", "message"),
    [
        (b"{", None, "cannot be read"),
        (b"[]", None, "must be a JSON object"),
        (b"{}", None, "at least one input"),
        (b'{"inputs": []}', None, "at least one input"),
        (b'{"inputs": [1]}', None, "must be a JSON object"),
        (b"{}", 3, "is 3, the body has 2 bytes"),
        (b"{}", 0, "is 0, the body has 2 bytes"),
        (body(entry(), id=5), None, "id must be a string"),
        (body(entry(), outputs={}), None, "outputs must be a list"),
        (body(entry(), outputs=[{}]), None, 'needs a "name"'),
        (body(entry(), outputs=[{"name": "y", "parameters": {"classification": -1}}]), None, "classification is -1"),
        (body(entry(), parameters={"binary_data_output": 1}), None, "binary_data_output is 1"),
        (body(entry()) + b"rest", len(body(entry())), "4 bytes follow the JSON part"),
    ],
)
def test_an_invalid_body_is_refused_with_what_was_expected(
    content: bytes, header_length: int | None, message: str
) -> None:
    with pytest.raises(OipError, match=message):
        read(content, header_length)


def binary_entry(datatype: str, shape: list[int], data: bytes) -> tuple[bytes, int]:
    head = body({"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}})
    return head + data, len(head)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("FP32", [2], bytes(7), "needs 8 bytes, binary_data_size is 7"),
        ("BF16", [3], bytes(8), "needs 6 bytes"),
        ("BYTES", [1], b"\x05\0\0\0abc", "says 5 bytes, 3 are left"),
        ("BYTES", [1], b"\x05\0", "no room for its four-byte length"),
        ("BYTES", [2], pack_strings([b"one"]), "holds 2 elements, the binary data has 1"),
    ],
)
def test_invalid_binary_data_is_refused(datatype: str, shape: list[int], data: bytes, message: str) -> None:
    with pytest.raises(OipError, match=message):
        read(*binary_entry(datatype, shape, data))


def test_every_datatype_of_a_lane_has_a_json_form_but_bf16() -> None:
    assert set(DATATYPE_SIZE) - set(NUMPY_TYPES) == {"BF16"}
    assert all(NUMPY_TYPES[name].itemsize == DATATYPE_SIZE[name] for name in NUMPY_TYPES)


def test_a_bf16_output_is_widened_in_json() -> None:
    tensor = Tensor("y", "BF16", (1, 2), struct.pack("<2H", 0x3F80, 0xC000))
    content, _ = encode("m", "1", InferRequest(), [tensor])
    assert orjson.loads(content)["outputs"][0]["data"] == [1.0, -2.0]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("cat", "dog", "owl"), ["2.500000:1:dog", "1.000000:2:owl"]),
        (None, ["2.500000:1", "1.000000:2"]),
        (("wrong", "length"), ["2.500000:1", "1.000000:2"]),
    ],
)
@pytest.mark.parametrize("binary", [True, False])
def test_a_classification_names_the_best_classes(
    labels: tuple[str, ...] | None, expected: list[str], binary: bool
) -> None:
    tensor = Tensor("y", "FP32", (1, 3), struct.pack("<3f", 0.5, 2.5, 1.0))
    content, length = encode("m", "1", InferRequest(outputs=(OutputRequest("y", binary, 2),)), [tensor], labels)
    (output,) = orjson.loads(content[:length])["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 2])
    if binary:
        assert [bytes(v).decode() for v in unpack_strings(memoryview(content[length:]), "y", 2)] == expected
    else:
        assert output["data"] == expected
