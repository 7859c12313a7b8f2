"""Codec of the Open Inference Protocol (V2) over gRPC: messages to requests, and results to messages."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sponge_core.datatypes import NUMPY_TYPES
from sponge_server.bounds import Bounds
from sponge_server.protocol.oip import (
    InferRequest,
    OipError,
    Output,
    OutputRequest,
    Strings,
    TensorHead,
    check_count,
    class_count,
    infer_request,
    number_array,
    numbers_input,
    raw_input,
    select_outputs,
    strings_input,
    tensor_head,
    values_of,
)
from sponge_server.protos import inference_pb2 as pb
from sponge_server.workers.interface import Tensor

__all__ = ["decode", "encode", "typed_bytes"]

CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Field with the elements of each datatype; other datatypes have a raw form only."""

STEP = 1 << 12
"""Numbers that are converted at once."""


def typed_bytes(message: pb.ModelInferRequest) -> int:
    """Bytes of the numbers that must be parsed one by one."""
    return sum(item.contents.ByteSize() for item in message.inputs if item.datatype != "BYTES")


def decode(message: pb.ModelInferRequest, bounds: Bounds) -> InferRequest:
    """Reads a request. Raises OipError, which says what was expected and what was sent."""
    check_count("inputs", len(message.inputs), bounds.inputs)
    check_count("outputs", len(message.outputs), bounds.outputs)
    raw = message.raw_input_contents
    if not message.inputs:
        raise OipError("the request needs at least one input")
    if raw and len(raw) != len(message.inputs):
        raise OipError(
            f"raw_input_contents has {len(raw)} entries for {len(message.inputs)} inputs: give one per input"
        )
    inputs: list[Tensor | Strings] = []
    for index, item in enumerate(message.inputs):
        check_count(f"sizes in the shape of inputs[{index}]", len(item.shape), bounds.dimensions)
        head = tensor_head(item.name, item.datatype, list(item.shape), f"inputs[{index}]", bounds)
        if raw and item.HasField("contents"):
            raise OipError(f"{head.where} has contents, but the request has raw_input_contents: give one of them")
        inputs.append(
            raw_input(head, memoryview(raw[index]), "raw_input_contents") if raw else _typed(head, item.contents)
        )
    binary = bool(raw)
    return infer_request(message.id, inputs, _outputs(message, binary), binary, _parameters(message.parameters))


def encode(
    model: str,
    version: str,
    request: InferRequest,
    outputs: Sequence[Tensor],
    labels: Sequence[str] | None = None,
    answered_by: tuple[str, float] | None = None,
) -> pb.ModelInferResponse:
    """The response, in raw form if the request was, or if an output has no other form.

    Args:
        outputs: the model's outputs, in its order.
        labels: names of the classes, used where a client asks for a classification.
        answered_by: name and accuracy of the variant; None: the model has none.

    Raises:
        OipError: an output is requested that the model does not have.
    """
    response = pb.ModelInferResponse(model_name=model, model_version=version, id=request.id)
    selected = list(select_outputs(request, outputs, labels))
    raw = request.binary or any(output.datatype not in CONTENTS for output in selected)
    for output in selected:
        entry = response.outputs.add(name=output.ask.name, datatype=output.datatype, shape=output.shape)
        if raw:
            response.raw_output_contents.append(bytes(output.raw))
        else:
            getattr(entry.contents, CONTENTS[output.datatype]).extend(_elements(output))
    if answered_by is not None:
        response.parameters["variant"].string_param, response.parameters["accuracy"].double_param = answered_by
    return response


def _typed(head: TensorHead, contents: pb.InferTensorContents) -> Tensor | Strings:
    field = CONTENTS.get(head.datatype)
    if field is None:
        raise OipError(f"{head.where}: {head.datatype} has no typed form, send it as raw_input_contents")
    elements = getattr(contents, field)
    if len(elements) != head.elements:
        shape = list(head.shape)
        raise OipError(f"{head.where}: shape {shape} holds {head.elements} elements, {field} has {len(elements)}")
    if head.datatype == "BYTES":
        return strings_input(head, list(elements), field)
    if head.elements > STEP:
        return _stepwise(head, elements)
    return numbers_input(head, list(elements), field)


def _stepwise(head: TensorHead, elements: Sequence[Any]) -> Tensor:
    """Many numbers as a tensor, in steps between which other threads get a turn."""
    array = np.empty(head.elements, NUMPY_TYPES[head.datatype])
    for at in range(0, head.elements, STEP):
        array[at : at + STEP] = number_array(list(elements[at : at + STEP]), head)
        time.sleep(0)
    return Tensor(head.name, head.datatype, head.shape, array.view(np.uint8).data)


def _elements(output: Output) -> Iterable[Any]:
    if output.strings is not None:
        return [bytes(value) for value in output.strings.values]
    values: list[Any] = values_of(output.tensor).tolist()
    return values


def _outputs(message: pb.ModelInferRequest, binary: bool) -> Iterable[OutputRequest]:
    for index, item in enumerate(message.outputs):
        where = f"outputs[{index}]"
        if not item.name:
            raise OipError(f'{where} needs a "name"')
        yield OutputRequest(
            item.name, binary, class_count(_parameters(item.parameters).get("classification", 0), where)
        )


def _parameters(given: Mapping[str, pb.InferParameter]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is not None:
            found[name] = getattr(parameter, kind)
    return found
