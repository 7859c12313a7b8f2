"""Codec of the Open Inference Protocol (V2) over REST: JSON and the binary tensor extension."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import orjson

from sponge_server.bounds import Bounds
from sponge_server.protocol.long_json import LONG_TEXT_BYTES, Numbers, read_long
from sponge_server.protocol.oip import (
    InferRequest,
    OipError,
    OutputRequest,
    Strings,
    check_count,
    class_count,
    infer_request,
    numbers_input,
    raw_input,
    select_outputs,
    shown,
    strings_input,
    tensor_head,
    values_of,
)
from sponge_server.workers.interface import Tensor

__all__ = ["decode", "encode"]

TEXT_STEP = 1 << 14
"""Numbers of an output that become text at once; other threads get a turn in between."""


def decode(body: bytes | bytearray, header_length: int | None, bounds: Bounds) -> InferRequest:
    """Reads a request. JSON longer than `LONG_TEXT_BYTES` takes long: then call it in a thread.

    Args:
        header_length: value of `Inference-Header-Content-Length`: bytes of JSON before the binary tensors, which come
            in the order of the inputs. None: the whole body is JSON.

    Raises:
        OipError: the body is not a request; says what was expected and what was sent.
    """
    view = memoryview(body)
    if header_length is not None and not 0 < header_length <= len(body):
        raise OipError(f"Inference-Header-Content-Length is {header_length}, the body has {len(body)} bytes")
    text, rest = (body, view[:0]) if header_length is None else (body[:header_length], view[header_length:])
    numbers: dict[str, Numbers] = {}
    try:
        if len(text) > LONG_TEXT_BYTES:
            document, numbers = read_long(text, bounds)
        else:
            document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise OipError(f"the JSON part of the body cannot be read: {error}") from None
    request = _object(document, "the request")
    parameters = _object(_given(request, "parameters", {}), "parameters")
    binary = _flag(parameters, "binary_data_output", "parameters")
    inputs: list[Tensor | Strings] = []
    offset = 0
    given = request.get("inputs")
    if not isinstance(given, list) or not given:
        raise OipError('the request needs a list "inputs" with at least one input')
    check_count("inputs", len(given), bounds.inputs)
    for index, entry in enumerate(given):
        item = _object(entry, f"inputs[{index}]")
        parsed, used = _input(item, f"inputs[{index}]", rest[offset:], numbers, bounds)
        offset += used
        inputs.append(parsed)
    if offset != len(rest):
        raise OipError(f"{len(rest)} bytes follow the JSON part, the inputs' binary_data_size add up to {offset}")
    request_id = _given(request, "id", "")
    if not isinstance(request_id, str):
        raise OipError(f"id must be a string, got {shown(request_id)}")
    outputs = list(_outputs(_given(request, "outputs", []), binary, bounds))
    return infer_request(request_id, inputs, outputs, binary, parameters)


def encode(
    model: str,
    version: str,
    request: InferRequest,
    outputs: Sequence[Tensor],
    labels: Sequence[str] | None = None,
    answered_by: tuple[str, float] | None = None,
) -> tuple[bytes, int | None]:
    """The response body and, when it carries binary tensors, the length of its JSON part.

    Args:
        outputs: the model's outputs, in its order.
        labels: names of the classes, used where a client asks for a classification.
        answered_by: name and accuracy of the variant; None: the model has none.

    Raises:
        OipError: an output is requested that the model does not have.
    """
    entries: list[dict[str, Any]] = []
    blobs: list[bytes | bytearray | memoryview] = []
    for output in select_outputs(request, outputs, labels):
        entry: dict[str, Any] = {"name": output.ask.name, "datatype": output.datatype, "shape": list(output.shape)}
        if output.ask.binary:
            blob = output.raw
            entry["parameters"] = {"binary_data_size": memoryview(blob).nbytes}
            blobs.append(blob)
        elif output.strings is not None:
            entry["data"] = _strings(output.strings.values, entry)
        else:
            entry["data"] = _text(values_of(output.tensor))
        entries.append(entry)
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id:
        document["id"] = request.id
    if answered_by is not None:
        document["parameters"] = dict(zip(("variant", "accuracy"), answered_by, strict=True))
    document["outputs"] = entries
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not blobs:
        return head, None
    return b"".join([head, *blobs]), len(head)


def _strings(values: Sequence[bytes | bytearray | memoryview], entry: dict[str, Any]) -> list[str]:
    """Strings as JSON has them: as they are, or all in base64, which the entry then says, if one is no text."""
    try:
        return [bytes(value).decode() for value in values]
    except UnicodeDecodeError:
        entry["parameters"] = {"content_type": "base64"}
        return [base64.b64encode(value).decode() for value in values]


def _text(values: np.ndarray[Any, Any]) -> object:
    """A flat array as orjson takes it; a large one as text already, made step by step."""
    if values.size <= TEXT_STEP:
        return values
    steps = (values[at : at + TEXT_STEP] for at in range(0, values.size, TEXT_STEP))
    texts = [orjson.dumps(step, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1] for step in steps]
    return orjson.Fragment(b"[" + b",".join(texts) + b"]")


def _input(
    item: dict[str, Any], where: str, rest: memoryview, numbers: dict[str, Numbers], bounds: Bounds
) -> tuple[Tensor | Strings, int]:
    """One input, and the number of bytes of `rest` that it used. `numbers`: data that was left out of the document."""
    head = tensor_head(item.get("name"), item.get("datatype"), item.get("shape"), where, bounds)
    parameters = _object(_given(item, "parameters", {}), f"{head.where}: parameters")
    size = parameters.get("binary_data_size")
    if size is not None:
        if type(size) is not int or not 0 <= size <= len(rest):
            raise OipError(
                f"{head.where}: binary_data_size is {shown(size)}, {len(rest)} bytes are left after the JSON part"
            )
        return raw_input(head, rest[:size], "binary_data_size"), size
    data = item.get("data")
    if isinstance(data, str) and data in numbers:
        return numbers[data].tensor(head), 0
    if not isinstance(data, list):
        raise OipError(f'{head.where} needs either a list "data" or the parameter binary_data_size')
    if head.datatype == "BYTES":
        plain = bounds.texts and parameters.get("content_type") != "base64"
        read = _text_of if plain else _base64
        return strings_input(head, [read(value, head.where) for value in _flat(data, head.where)], "data"), 0
    return numbers_input(head, data, "data"), 0


def _flat(data: list[Any], where: str, depth: int = 8) -> Iterable[Any]:
    if not depth:
        raise OipError(f"{where}: data is nested too deeply")
    for value in data:
        if isinstance(value, list):
            yield from _flat(value, where, depth - 1)
        else:
            yield value


def _text_of(value: object, where: str) -> bytes:
    if not isinstance(value, str):
        raise OipError(f"{where}: BYTES elements in JSON are strings, and {shown(value)} is none")
    return value.encode()


def _base64(value: object, where: str) -> bytes:
    if not isinstance(value, str):
        raise OipError(f"{where}: BYTES elements in JSON are base64 strings")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise OipError(f"{where}: a BYTES element is not valid base64; send raw bytes as a binary tensor") from None


def _outputs(raw: object, binary_default: bool, bounds: Bounds) -> Iterable[OutputRequest]:
    if not isinstance(raw, list):
        raise OipError("outputs must be a list")
    check_count("outputs", len(raw), bounds.outputs)
    for index, entry in enumerate(raw):
        where = f"outputs[{index}]"
        item = _object(entry, where)
        name = item.get("name")
        if not isinstance(name, str):
            raise OipError(f'{where} needs a "name"')
        parameters = _object(_given(item, "parameters", {}), f"{where}.parameters")
        top = class_count(_given(parameters, "classification", 0), where)
        yield OutputRequest(name, _flag(parameters, "binary_data", where, binary_default), top)


def _given(item: dict[str, Any], name: str, default: object) -> Any:
    """An optional member; null counts as absent, because many serialisers write it for what is not set."""
    value = item.get(name)
    return default if value is None else value


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise OipError(f"{where} must be a JSON object")
    return value


def _flag(parameters: dict[str, Any], name: str, where: str, default: bool = False) -> bool:
    value = _given(parameters, name, default)
    if not isinstance(value, bool):
        raise OipError(f"{where}: {name} is {shown(value)}, expected true or false")
    return value
