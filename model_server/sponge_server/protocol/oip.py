"""The Open Inference Protocol (V2): what its REST and gRPC forms share, as plain data.

The functions here check what the protocol itself demands; `ModelInfo.check` says whether tensors fit a model.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from sponge_core.datatypes import NUMPY_TYPES
from sponge_core.errors import SpongeError
from sponge_server.bounds import Bounds
from sponge_server.workers.image_header import pixels_of
from sponge_server.workers.interface import DATATYPE_SIZE, Item, ItemError, ModelInfo, Tensor
from sponge_server.workers.strings import pack_strings

__all__ = [
    "SERVER_NAME",
    "SERVER_VERSION",
    "InferRequest",
    "OipError",
    "Output",
    "OutputRequest",
    "Strings",
    "TensorHead",
    "check_count",
    "class_count",
    "infer_request",
    "number_array",
    "numbers_input",
    "pack_strings",
    "raw_input",
    "rows_of",
    "select_outputs",
    "shown",
    "strings_input",
    "tensor_head",
    "unpack_strings",
    "values_of",
]

SERVER_NAME = "sponge"
SERVER_VERSION = version("sponge-serving")

LONGEST_NAME = 120
"""Characters of a client's text that errors quote."""

_SHORTLY = reprlib.Repr()
_SHORTLY.maxstring = _SHORTLY.maxother = LONGEST_NAME
_SHORTLY.maxlist = 12


class OipError(SpongeError):
    """The body is not a request of the protocol; the message says where, and what was expected."""


@dataclass(frozen=True, slots=True)
class Strings:
    """An input of datatype BYTES: its elements in row-major order."""

    name: str
    shape: tuple[int, ...]
    values: tuple[bytes | bytearray | memoryview, ...]


@dataclass(frozen=True, slots=True)
class OutputRequest:
    """One requested output: `binary` for its binary form, `top` > 0 for that many classes instead of the tensor."""

    name: str
    binary: bool
    top: int = 0


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A decoded request. Without `outputs` the client wants all of them, in binary form if `binary`."""

    id: str = ""
    tensors: tuple[Tensor, ...] = ()
    strings: tuple[Strings, ...] = ()
    outputs: tuple[OutputRequest, ...] = ()
    binary: bool = False
    timeout_us: object = None
    accuracy_floor: object = None


@dataclass(frozen=True, slots=True)
class TensorHead:
    """Description of an input, without its data."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: int

    @property
    def where(self) -> str:
        """Name of the input in errors."""
        return f"input {shown(self.name)}"


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a response, as the client requested it: a tensor, or its largest classes."""

    ask: OutputRequest
    tensor: Tensor
    strings: Strings | None = None

    @property
    def datatype(self) -> str:
        return self.tensor.datatype if self.strings is None else "BYTES"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape if self.strings is None else self.strings.shape

    @property
    def raw(self) -> bytes | bytearray | memoryview:
        """The data in the protocol's binary form."""
        return self.tensor.data if self.strings is None else pack_strings(self.strings.values)


def shown(value: object) -> str:
    """A value of the client's as errors quote it: shortened before it is written, not after."""
    return _SHORTLY.repr(value)


def check_count(what: str, count: int, most: int) -> None:
    """Raises OipError when a request has more of something than a model can use."""
    if count > most:
        raise OipError(f"the request has {count} {what}, the model takes at most {most}")


def tensor_head(name: object, datatype: object, shape: object, where: str, bounds: Bounds) -> TensorHead:
    """Checks the description of an input. Raises OipError. `where` names it in errors until its name is known."""
    if not isinstance(name, str) or not name:
        raise OipError(f'{where} needs a "name"')
    where = f"input {shown(name)}"
    if not isinstance(datatype, str) or (datatype != "BYTES" and datatype not in DATATYPE_SIZE):
        known = ", ".join([*DATATYPE_SIZE, "BYTES"])
        raise OipError(f"{where}: datatype is {shown(datatype)}, expected one of {known}")
    if isinstance(shape, list) and len(shape) > bounds.dimensions:
        raise OipError(f"{where}: the shape has {len(shape)} sizes, the model takes at most {bounds.dimensions}")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise OipError(f"{where}: shape is {shown(shape)}, expected a list of sizes >= 0")
    most = bounds.strings if datatype == "BYTES" else bounds.elements
    # Few sizes, each compared first: the product is a small number of at most so many digits.
    elements = math.prod(shape) if all(size <= most for size in shape) else most + 1
    if elements > most:
        raise OipError(f"{where}: shape {shown(shape)} has more than {most} elements, the most that the model takes")
    return TensorHead(name, datatype, tuple(shape), elements)


def raw_input(head: TensorHead, data: memoryview, said: str) -> Tensor | Strings:
    """An input from data in binary form. Raises OipError. `said` names the source of the data's length in errors."""
    if head.datatype == "BYTES":
        return strings_input(head, unpack_strings(data, head.where, head.elements), "the binary data")
    wanted = head.elements * DATATYPE_SIZE[head.datatype]
    if len(data) != wanted:
        raise OipError(
            f"{head.where}: shape {list(head.shape)} of {head.datatype} needs {wanted} bytes, {said} is {len(data)}"
        )
    return Tensor(head.name, head.datatype, head.shape, data)


def strings_input(head: TensorHead, values: Sequence[bytes | memoryview], said: str) -> Strings:
    """An input of datatype BYTES from its elements. Raises OipError when their number does not fit the shape."""
    if len(values) != head.elements:
        raise OipError(
            f"{head.where}: shape {list(head.shape)} holds {head.elements} elements, {said} has {len(values)}"
        )
    return Strings(head.name, head.shape, tuple(values))


def numbers_input(head: TensorHead, data: list[Any], said: str) -> Tensor:
    """An input from single numbers. Raises OipError when they do not fit the datatype or shape."""
    if head.datatype == "BF16":
        raise OipError(f"{head.where}: BF16 has no JSON form, send it as a binary tensor")
    array = number_array(data, head)
    if array.size != head.elements:
        raise OipError(
            f"{head.where}: shape {list(head.shape)} holds {head.elements} elements, {said} has {array.size}"
        )
    return Tensor(head.name, head.datatype, head.shape, array.tobytes())


def class_count(value: object, where: str) -> int:
    """Checks the parameter `classification` of an output, a number of classes. Raises OipError."""
    if type(value) is not int or value < 0:
        raise OipError(f"{where}: classification is {shown(value)}, expected the number of classes to return")
    return value


def infer_request(
    request_id: str,
    inputs: Sequence[Tensor | Strings],
    outputs: Iterable[OutputRequest],
    binary: bool,
    parameters: Mapping[str, object],
) -> InferRequest:
    """A request from its decoded parts. Raises OipError for an invalid parameter."""
    _check_priority(_number(parameters.get("priority")))
    asked = tuple(outputs)
    if len({(ask.name, ask.top > 0) for ask in asked}) < len(asked):
        raise OipError("the same output is requested twice: once as a tensor and once as classes is the most")
    return InferRequest(
        id=request_id,
        tensors=tuple(given for given in inputs if isinstance(given, Tensor)),
        strings=tuple(given for given in inputs if isinstance(given, Strings)),
        outputs=asked,
        binary=binary,
        timeout_us=_number(parameters.get("timeout")),
        accuracy_floor=parameters.get("accuracy_floor"),
    )


def rows_of(request: InferRequest, info: ModelInfo, most: int) -> list[Item]:
    """The request as single rows, without copying its data.

    Raises ItemError when it does not fit the model, or has more than `most` rows.
    """
    if request.outputs:
        unknown = {ask.name for ask in request.outputs} - {spec.name for spec in info.outputs}
        if unknown:
            names = ", ".join(spec.name for spec in info.outputs)
            given = ", ".join(name[:LONGEST_NAME] for name in sorted(unknown))
            raise ItemError(f"the model has no output {given}; it has {names}")
    texts = request.strings if request.strings and info.takes_texts else ()
    images = _images(request.strings, info) if request.strings and not texts else ()
    pixels = [pixels_of(image) for image in images]
    item = Item((*request.tensors, *(_text_tensor(given) for given in texts)), images, sum(pixels))
    if not info.batched:
        item = replace(item, tensors=tuple(replace(each, shape=(1, *each.shape)) for each in item.tensors))
    if not item.images and not item.tensors:
        raise ItemError("the request has no rows: give at least one image")
    info.check(item)
    if item.rows > most:
        raise ItemError(f"{item.rows} rows in one request, model {info.name} takes at most {most} at once: split it")
    if item.rows == 1:
        return [item]
    if item.images:
        return [Item(images=(image,), pixels=count) for image, count in zip(images, pixels, strict=True)]
    return [
        Item((*(_row(tensor, row) for tensor in request.tensors), *(_text_row(given, row) for given in texts)))
        for row in range(item.rows)
    ]


def select_outputs(request: InferRequest, outputs: Sequence[Tensor], labels: Sequence[str] | None) -> Iterator[Output]:
    """The requested outputs, in the client's order; all outputs if the client requested none.

    Args:
        labels: names of the classes, used where a client asks for a classification.

    Raises:
        OipError: an output is requested that the model does not have.
    """
    given = {tensor.name: tensor for tensor in outputs}
    for ask in request.outputs or (OutputRequest(tensor.name, request.binary) for tensor in outputs):
        tensor = given.get(ask.name)
        if tensor is None:
            raise OipError(f"the model has no output {shown(ask.name)}; it has {', '.join(given)}")
        if tensor.datatype == "BYTES":
            if ask.top:
                raise OipError(f"output {shown(ask.name)} is of strings, which have no classification")
            values = tuple(unpack_strings(memoryview(tensor.data), ask.name, math.prod(tensor.shape)))
            yield Output(ask, tensor, Strings(tensor.name, tensor.shape, values))
        else:
            yield Output(ask, tensor, _classes(tensor, ask.top, labels) if ask.top else None)


def unpack_strings(data: memoryview, where: str, most: int) -> list[memoryview]:
    """Reverses `pack_strings`, without copying. Raises OipError for more than `most` and if lengths do not add up."""
    values: list[memoryview] = []
    at = 0
    while at < len(data):
        if len(values) == most:
            raise OipError(f"{where}: the shape holds {most} elements, the binary data has more")
        if at + 4 > len(data):
            raise OipError(f"{where}: element {len(values)} has no room for its four-byte length prefix")
        size = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if at + size > len(data):
            raise OipError(f"{where}: element {len(values)} says {size} bytes, {len(data) - at} are left")
        values.append(data[at : at + size])
        at += size
    return values


def number_array(data: list[Any], head: TensorHead) -> np.ndarray[Any, Any]:
    """JSON numbers as an array. Raises OipError where plain conversion would change them: text, fractions, overflow."""
    datatype, where = head.datatype, head.where
    dtype = NUMPY_TYPES[datatype]
    try:
        array = np.asarray(data) if data else np.empty(0, dtype)
    except ValueError:
        raise OipError(f"{where}: data is ragged, every row needs the same length") from None
    if datatype == "UINT64" and array.dtype.kind == "f":
        array = _large_numbers(data, array)
    allowed = {"b": "b", "u": "bui", "i": "bui", "f": "buif"}[dtype.kind]
    if array.size and array.dtype.kind not in allowed:
        raise OipError(f"{where}: data does not hold {datatype} values")
    if dtype.kind in "ui" and array.size and array.dtype.kind in "ui":
        bounds = np.iinfo(dtype)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise OipError(f"{where}: data goes beyond {bounds.min} to {bounds.max}, the range of {datatype}")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype)


def _large_numbers(data: list[Any], array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Whole numbers as they were written: numpy makes floats of a list that has some above 2^63 and some below."""
    exact = np.asarray(data, object)
    whole = all(type(value) is int and value >= 0 for value in exact.ravel())
    return exact.astype(np.uint64) if whole else array


def values_of(tensor: Tensor) -> np.ndarray[Any, Any]:
    """The elements of a tensor in a flat array; half precision is widened, which changes no value."""
    if tensor.datatype == "BF16":
        return (np.frombuffer(tensor.data, "<u2").astype("<u4") << 16).view("<f4")
    array = np.frombuffer(tensor.data, NUMPY_TYPES[tensor.datatype])
    return array.astype("<f4") if tensor.datatype == "FP16" else array


def _number(value: object) -> object:
    """A parameter, as a number if it is the text of one: some clients write 64-bit numbers so."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20 else value


def _check_priority(value: object) -> None:
    """Raises OipError when there is a priority that is not a whole number >= 0.

    It has no effect: requests are served by their deadlines, and an urgent one states a tighter deadline.
    """
    if value is not None and (type(value) is not int or value < 0):
        raise OipError(f"parameters.priority is {shown(value)}: give a whole number >= 0, or better a tighter deadline")


def _classes(tensor: Tensor, top: int, labels: Sequence[str] | None) -> Strings:
    """The `top` largest entries of each row as `value:index[:label]`, largest first; equal ones by index, NaN last."""
    rows = math.prod(tensor.shape[:1])  # without dimensions it is one number
    scores = values_of(tensor).reshape(rows, math.prod(tensor.shape[1:]))
    top = min(top, scores.shape[1])
    # Whole numbers are inverted bit by bit: a minus sign wraps for unsigned ones and for the least signed one.
    whole = scores.dtype.kind in "bui"
    best = np.argsort(~scores if whole else -scores, axis=1, kind="stable")[:, :top]
    form = "d" if whole else "f"
    named = labels if labels is not None and len(labels) == scores.shape[1] else None
    texts = [
        f"{row[i]:{form}}:{i}:{named[i]}" if named else f"{row[i]:{form}}:{i}"
        for row, order in zip(scores, best, strict=True)
        for i in order
    ]
    return Strings(tensor.name, (rows, top), tuple(text.encode() for text in texts))


def _images(strings: tuple[Strings, ...], info: ModelInfo) -> tuple[bytes | bytearray | memoryview, ...]:
    image_inputs = (info.inputs[0].name, "image") if info.accepts_images else ()
    for given in strings:
        if given.name not in image_inputs:
            wanted = f"encoded images as {info.inputs[0].name!r}" if image_inputs else "no BYTES at all"
            raise ItemError(f"input {shown(given.name)} has datatype BYTES; the model takes {wanted}")
    return strings[0].values


def _text_tensor(given: Strings) -> Tensor:
    return Tensor(given.name, "BYTES", given.shape, pack_strings(given.values))


def _text_row(given: Strings, row: int) -> Tensor:
    size = math.prod(given.shape[1:])
    return _text_tensor(Strings(given.name, (1, *given.shape[1:]), given.values[row * size : (row + 1) * size]))


def _row(tensor: Tensor, row: int) -> Tensor:
    """One row of a tensor, without copying its data."""
    data = memoryview(tensor.data)
    size = len(data) // tensor.shape[0]
    return Tensor(tensor.name, tensor.datatype, (1, *tensor.shape[1:]), data[row * size : (row + 1) * size])
