"""Open Inference Protocol V2 over REST: requests and responses as bytes, JSON and the binary tensor extension.

A codec and nothing more: knows no model, no HTTP server and no queue. Whether the tensors suit a model is for
`ModelInfo.check` to say; here only what the protocol itself demands is refused.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from sponge_core.datatypes import NUMPY_TYPES
from sponge_core.errors import SpongeError
from sponge_server.lanes.interface import DATATYPE_SIZE, Tensor

__all__ = ["InferRequest", "OipError", "OutputRequest", "Strings", "decode", "encode", "pack_strings", "unpack_strings"]


class OipError(SpongeError):
    """A body that is not a request of the protocol; says where and what was expected."""


@dataclass(frozen=True, slots=True)
class Strings:
    """An input of datatype BYTES: its elements in row-major order."""

    name: str
    shape: tuple[int, ...]
    values: tuple[bytes | memoryview, ...]


@dataclass(frozen=True, slots=True)
class OutputRequest:
    """How one output is wanted: `top` > 0 asks for that many classes instead of the tensor."""

    name: str
    binary: bool
    top: int = 0


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A decoded request. `outputs` is empty when the client takes all of them; `binary` is then how it wants them."""

    id: str = ""
    tensors: tuple[Tensor, ...] = ()
    strings: tuple[Strings, ...] = ()
    outputs: tuple[OutputRequest, ...] = ()
    binary: bool = False
    timeout_us: object = None


def decode(body: bytes, header_length: int | None) -> InferRequest:
    """Reads a request.

    Args:
        header_length: value of `Inference-Header-Content-Length`: so many bytes of JSON, then the binary tensors in
            the order of the inputs. None: all of it is JSON.

    Raises:
        OipError: with what was expected and what came.
    """
    view = memoryview(body)
    if header_length is not None and not 0 < header_length <= len(body):
        raise OipError(f"Inference-Header-Content-Length is {header_length}, the body has {len(body)} bytes")
    head, rest = (view, view[:0]) if header_length is None else (view[:header_length], view[header_length:])
    try:
        document = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise OipError(f"the JSON part of the body cannot be read: {error}") from None
    request = _object(document, "the request")
    parameters = _object(request.get("parameters", {}), "parameters")
    binary = _flag(parameters, "binary_data_output", "parameters")
    tensors: list[Tensor] = []
    strings: list[Strings] = []
    offset = 0
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise OipError('the request needs a list "inputs" with at least one input')
    for index, entry in enumerate(inputs):
        item = _object(entry, f"inputs[{index}]")
        parsed, used = _input(item, f"inputs[{index}]", rest[offset:])
        offset += used
        if isinstance(parsed, Tensor):
            tensors.append(parsed)
        else:
            strings.append(parsed)
    if offset != len(rest):
        raise OipError(f"{len(rest)} bytes follow the JSON part, the inputs' binary_data_size add up to {offset}")
    request_id = request.get("id", "")
    if not isinstance(request_id, str):
        raise OipError(f"id must be a string, got {request_id!r}")
    return InferRequest(
        id=request_id,
        tensors=tuple(tensors),
        strings=tuple(strings),
        outputs=tuple(_outputs(request.get("outputs", []), binary)),
        binary=binary,
        timeout_us=parameters.get("timeout"),
    )


def encode(
    model: str,
    version: str,
    request: InferRequest,
    outputs: Sequence[Tensor],
    labels: Sequence[str] | None = None,
) -> tuple[bytes, int | None]:
    """The response body and, when it carries binary tensors, the length of its JSON part.

    Args:
        outputs: what the model gave, in its order.
        labels: names of the classes, used where a client asks for a classification.

    Raises:
        OipError: an output is asked for that the model does not have.
    """
    given = {tensor.name: tensor for tensor in outputs}
    asked = request.outputs or tuple(OutputRequest(tensor.name, request.binary) for tensor in outputs)
    entries: list[dict[str, Any]] = []
    blobs: list[bytes | bytearray | memoryview] = []
    for ask in asked:
        tensor = given.get(ask.name)
        if tensor is None:
            raise OipError(f"the model has no output {ask.name!r}; it has {', '.join(given)}")
        entry: dict[str, Any] = {"name": ask.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if ask.top:
            classes, entry["shape"] = _classes(tensor, ask.top, labels)
            entry["datatype"] = "BYTES"
            blob: bytes | bytearray | memoryview = pack_strings(classes) if ask.binary else b""
            data: object = [value.decode() for value in classes]
        else:
            blob = tensor.data
            data = None if ask.binary else _values(tensor)
        if ask.binary:
            entry["parameters"] = {"binary_data_size": memoryview(blob).nbytes}
            blobs.append(blob)
        else:
            entry["data"] = data
        entries.append(entry)
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id:
        document["id"] = request.id
    document["outputs"] = entries
    head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not blobs:
        return head, None
    return b"".join([head, *blobs]), len(head)


def pack_strings(values: Iterable[bytes | memoryview]) -> bytes:
    """Elements of datatype BYTES in binary form: each behind its length, four bytes little-endian."""
    parts: list[bytes | memoryview] = []
    for value in values:
        parts += (struct.pack("<I", len(value)), value)
    return b"".join(parts)


def unpack_strings(data: memoryview, where: str) -> list[memoryview]:
    """The reverse of `pack_strings`, without copying. Raises OipError when the lengths do not add up."""
    values: list[memoryview] = []
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise OipError(f"{where}: element {len(values)} has no room for its four-byte length prefix")
        size = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if at + size > len(data):
            raise OipError(f"{where}: element {len(values)} says {size} bytes, {len(data) - at} are left")
        values.append(data[at : at + size])
        at += size
    return values


def _input(item: dict[str, Any], where: str, rest: memoryview) -> tuple[Tensor | Strings, int]:
    """One input, and how many bytes of `rest` it took."""
    name, datatype, raw_shape = item.get("name"), item.get("datatype"), item.get("shape")
    if not isinstance(name, str) or not name:
        raise OipError(f'{where} needs a "name"')
    where = f"input {name!r}"
    if datatype != "BYTES" and datatype not in DATATYPE_SIZE:
        known = ", ".join([*DATATYPE_SIZE, "BYTES"])
        raise OipError(f"{where}: datatype is {datatype!r}, expected one of {known}")
    if not isinstance(raw_shape, list) or not all(type(size) is int and size >= 0 for size in raw_shape):
        raise OipError(f"{where}: shape is {raw_shape!r}, expected a list of sizes >= 0")
    shape = tuple(raw_shape)
    count = math.prod(shape)
    parameters = _object(item.get("parameters", {}), f"{where}: parameters")
    size = parameters.get("binary_data_size")
    if size is None:
        return _json_input(name, datatype, shape, count, item.get("data"), where), 0
    if type(size) is not int or not 0 <= size <= len(rest):
        raise OipError(f"{where}: binary_data_size is {size!r}, {len(rest)} bytes are left after the JSON part")
    data = rest[:size]
    if datatype == "BYTES":
        values = unpack_strings(data, where)
        if len(values) != count:
            raise OipError(f"{where}: shape {list(shape)} holds {count} elements, the binary data {len(values)}")
        return Strings(name, shape, tuple(values)), size
    wanted = count * DATATYPE_SIZE[datatype]
    if size != wanted:
        raise OipError(f"{where}: shape {list(shape)} of {datatype} needs {wanted} bytes, binary_data_size is {size}")
    return Tensor(name, datatype, shape, data), size


def _json_input(
    name: str, datatype: str, shape: tuple[int, ...], count: int, data: object, where: str
) -> Tensor | Strings:
    if not isinstance(data, list):
        raise OipError(f'{where} needs either a list "data" or the parameter binary_data_size')
    if datatype == "BYTES":
        values = [_base64(value, where) for value in _flat(data, where)]
        if len(values) != count:
            raise OipError(f"{where}: shape {list(shape)} holds {count} elements, data has {len(values)}")
        return Strings(name, shape, tuple(values))
    if datatype == "BF16":
        raise OipError(f"{where}: BF16 has no JSON form, send it as a binary tensor")
    array = _array(data, NUMPY_TYPES[datatype], datatype, where)
    if array.size != count:
        raise OipError(f"{where}: shape {list(shape)} holds {count} elements, data has {array.size}")
    return Tensor(name, datatype, shape, array.tobytes())


def _array(data: list[Any], dtype: np.dtype[Any], datatype: str, where: str) -> np.ndarray[Any, Any]:
    """JSON numbers as an array, refusing what a plain conversion would silently bend: text, fractions, overflow."""
    try:
        array = np.asarray(data) if data else np.empty(0, dtype)
    except ValueError:
        raise OipError(f"{where}: data is ragged, every row needs the same length") from None
    allowed = {"b": "b", "u": "bui", "i": "bui", "f": "buif"}[dtype.kind]
    if array.size and array.dtype.kind not in allowed:
        raise OipError(f"{where}: data does not hold {datatype} values")
    if dtype.kind in "ui" and array.size and array.dtype.kind in "ui":
        bounds = np.iinfo(dtype)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise OipError(f"{where}: data goes beyond {bounds.min} to {bounds.max}, the range of {datatype}")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype)


def _flat(data: list[Any], where: str, depth: int = 8) -> Iterable[Any]:
    if not depth:
        raise OipError(f"{where}: data is nested too deeply")
    for value in data:
        if isinstance(value, list):
            yield from _flat(value, where, depth - 1)
        else:
            yield value


def _base64(value: object, where: str) -> bytes:
    if not isinstance(value, str):
        raise OipError(f"{where}: BYTES elements in JSON are base64 strings")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise OipError(f"{where}: a BYTES element is not valid base64; send raw bytes as a binary tensor") from None


def _outputs(raw: object, binary_default: bool) -> Iterable[OutputRequest]:
    if not isinstance(raw, list):
        raise OipError("outputs must be a list")
    for index, entry in enumerate(raw):
        where = f"outputs[{index}]"
        item = _object(entry, where)
        name = item.get("name")
        if not isinstance(name, str):
            raise OipError(f'{where} needs a "name"')
        parameters = _object(item.get("parameters", {}), f"{where}.parameters")
        top = parameters.get("classification", 0)
        if type(top) is not int or top < 0:
            raise OipError(f"{where}: classification is {top!r}, expected how many classes to return")
        yield OutputRequest(name, _flag(parameters, "binary_data", where, binary_default), top)


def _values(tensor: Tensor) -> np.ndarray[Any, Any] | list[Any]:
    if tensor.datatype == "BF16":
        return (np.frombuffer(tensor.data, "<u2").astype("<u4") << 16).view("<f4")
    array = np.frombuffer(tensor.data, NUMPY_TYPES[tensor.datatype])
    # orjson writes 32- and 64-bit floats natively; half precision is widened, which changes no value.
    return array.astype("<f4") if tensor.datatype == "FP16" else array


def _classes(tensor: Tensor, top: int, labels: Sequence[str] | None) -> tuple[list[bytes], list[int]]:
    """The `top` largest entries of each row as `value:index[:label]`, largest first."""
    scores = np.asarray(_values(tensor)).reshape(tensor.shape[0], -1)
    top = min(top, scores.shape[1])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    named = labels if labels is not None and len(labels) == scores.shape[1] else None
    texts = [
        f"{row[i]:f}:{i}:{named[i]}" if named else f"{row[i]:f}:{i}"
        for row, order in zip(scores, best, strict=True)
        for i in order
    ]
    return [text.encode() for text in texts], [tensor.shape[0], top]


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise OipError(f"{where} must be a JSON object")
    return value


def _flag(parameters: dict[str, Any], name: str, where: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise OipError(f"{where}: {name} is {value!r}, expected true or false")
    return value
