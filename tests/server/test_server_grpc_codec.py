"""The gRPC codec: both forms of a tensor in both directions, and every kind of invalid message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from wide_bounds import WIDE

from sponge_core.datatypes import NUMPY_TYPES
from sponge_server import protos
from sponge_server.protocol.grpc_codec import CONTENTS, decode, encode, typed_bytes
from sponge_server.protocol.oip import InferRequest, OipError, OutputRequest, pack_strings
from sponge_server.protos import inference_pb2 as pb
from sponge_server.workers.interface import Tensor

Input = pb.ModelInferRequest.InferInputTensor


def message(*inputs: dict[str, Any], **rest: Any) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(inputs=[Input(**one) for one in inputs], **rest)


def read(given: pb.ModelInferRequest) -> InferRequest:
    return decode(given, WIDE)


def entry(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [2], "contents": {"fp32_contents": [1.0, 2.0]}} | changes


def values(datatype: str) -> np.ndarray[Any, Any]:
    return np.array([[0, 1, 1], [1, 0, 1]]).astype(NUMPY_TYPES[datatype])


@pytest.mark.parametrize("datatype", NUMPY_TYPES)
def test_a_raw_tensor_arrives_as_it_was(datatype: str) -> None:
    data = values(datatype).tobytes()
    request = read(message(entry(datatype=datatype, shape=[2, 3], contents=None), raw_input_contents=[data]))
    assert request.binary
    assert (request.tensors[0].shape, bytes(request.tensors[0].data)) == ((2, 3), data)


@pytest.mark.parametrize("datatype", [kind for kind in CONTENTS if kind != "BYTES"])
def test_a_typed_tensor_becomes_the_same_bytes_and_back(datatype: str) -> None:
    wanted = values(datatype)
    contents = {CONTENTS[datatype]: wanted.ravel().tolist()}
    request = read(message(entry(datatype=datatype, shape=[2, 3], contents=contents), id="7"))
    assert bytes(request.tensors[0].data) == wanted.tobytes()
    response = encode("m", "1", request, request.tensors)
    assert (response.id, response.model_name, response.model_version) == ("7", "m", "1")
    assert not response.raw_output_contents
    assert list(getattr(response.outputs[0].contents, CONTENTS[datatype])) == wanted.ravel().tolist()


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_datatypes_without_a_typed_form_are_returned_raw(datatype: str) -> None:
    tensor = Tensor("y", datatype, (1, 2), b"\x00\x3c\x00\x40")
    response = encode("m", "1", InferRequest(), [tensor, Tensor("z", "FP32", (1,), b"\0\0\x80\x3f")])
    assert list(response.raw_output_contents) == [b"\x00\x3c\x00\x40", b"\0\0\x80\x3f"]
    with pytest.raises(OipError, match=f"{datatype} has no typed form"):
        read(message(entry(datatype=datatype)))


@pytest.mark.parametrize("raw", [True, False])
def test_bytes_in_both_forms(raw: bool) -> None:
    given = entry(datatype="BYTES", contents=None if raw else {"bytes_contents": [b"one", b"three"]})
    request = read(message(given, raw_input_contents=[pack_strings([b"one", b"three"])] if raw else []))
    assert [bytes(value) for value in request.strings[0].values] == [b"one", b"three"]


@pytest.mark.parametrize("binary", [True, False])
def test_a_classification_in_both_forms(binary: bool) -> None:
    scores = Tensor("y", "FP32", (1, 3), np.array([[0.25, 0.5, 0.125]], "<f4").tobytes())
    response = encode("m", "1", InferRequest(outputs=(OutputRequest("y", binary, 2),)), [scores], ("a", "b", "c"))
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [1, 2])
    wanted = [b"0.500000:1:b", b"0.250000:0:a"]
    # What an output wants of its own does not exist here: raw is for all of them or none.
    assert list(response.outputs[0].contents.bytes_contents) == wanted
    response = encode("m", "1", InferRequest(outputs=(OutputRequest("y", binary, 2),), binary=True), [scores])
    assert response.raw_output_contents[0] == pack_strings([b"0.500000:1", b"0.250000:0"])


def test_parameters_are_read_whatever_their_type() -> None:
    number, text = pb.InferParameter(int64_param=5), pb.InferParameter(string_param="soon")
    request = read(message(entry(), parameters={"timeout": number, "priority": pb.InferParameter(uint64_param=1)}))
    assert request.timeout_us == 5
    assert read(message(entry(), parameters={"timeout": text})).timeout_us == "soon"
    assert read(message(entry(), parameters={"timeout": pb.InferParameter()})).timeout_us is None


def test_typed_bytes_count_numbers_only() -> None:
    images = entry(datatype="BYTES", contents={"bytes_contents": [b"x" * 1000]})
    assert typed_bytes(message(images)) == 0
    assert typed_bytes(message(entry(), images)) == 10


WRONG: list[tuple[pb.ModelInferRequest, str]] = [
    (message(), "at least one input"),
    (message(entry(name="")), 'needs a "name"'),
    (message(entry(datatype="FLOAT")), "expected one of"),
    (message(entry(shape=[-1])), "sizes >= 0"),
    (message(entry(shape=[3])), "holds 3 elements, fp32_contents has 2"),
    (message(entry(contents={"fp64_contents": [1, 2]})), "fp32_contents has 0"),
    (message(entry(datatype="INT8", contents={"int_contents": [1, 300]})), "the range of INT8"),
    (message(entry(), raw_input_contents=[b"x" * 8]), "give one of them"),
    (message(entry(contents=None), raw_input_contents=[b"x" * 7]), "needs 8 bytes, raw_input_contents is 7"),
    (message(entry(contents=None), raw_input_contents=[b"", b""]), "2 entries for 1 inputs"),
    (message(entry(datatype="BYTES", contents=None), raw_input_contents=[b"\x09\0\0\0x"]), "says 9 bytes, 1 are left"),
    (message(entry(), outputs=[{"name": ""}]), 'outputs\\[0\\] needs a "name"'),
    (
        message(entry(), outputs=[{"name": "y", "parameters": {"classification": {"string_param": "2"}}}]),
        "the number of classes",
    ),
    (message(entry(), parameters={"priority": {"int64_param": -1}}), "parameters.priority"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG, ids=[why for _, why in WRONG])
def test_an_invalid_message_says_what_was_expected(wrong: pb.ModelInferRequest, why: str) -> None:
    with pytest.raises(OipError, match=why):
        read(wrong)


def test_an_unknown_output() -> None:
    with pytest.raises(OipError, match="no output 'z'; it has y"):
        encode("m", "1", InferRequest(outputs=(OutputRequest("z", True),)), [Tensor("y", "INT8", (1,), b"1")])


def test_the_modules_are_those_of_the_proto(tmp_path: Path) -> None:
    """`make protos` was run after the last change."""
    file = "sponge_server/protos/inference.proto"
    root = Path(protos.__file__).parents[2]
    out = tmp_path / "set"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={root}", f"--descriptor_set_out={out}", file]
    subprocess.run(command, check=True)
    (now,) = FileDescriptorSet.FromString(out.read_bytes()).file
    now.ClearField("options")
    for described in now.message_type:
        strip_json_names(described)
    assert now.SerializeToString() == pb.DESCRIPTOR.serialized_pb


def strip_json_names(described: Any) -> None:
    for part in described.field:
        part.ClearField("json_name")
    for nested in described.nested_type:
        strip_json_names(nested)
