"""Counts what an inference message of gRPC would unpack to, from its bytes.

Two bytes on the wire may become an object of hundreds, so a long message is counted before it is parsed. Bytes that
stay bytes (raw tensors, images) are skipped over.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sponge_server.bounds import Bounds
from sponge_server.protocol.oip import OipError
from sponge_server.protos import inference_pb2 as pb

__all__ = ["LONG_MESSAGE_BYTES", "check_message"]

LONG_MESSAGE_BYTES = 64 << 10
"""A shorter message is parsed as it is: whatever it holds takes a few milliseconds and megabytes."""

FIELDS, PER_INPUT, PER_OUTPUT = 512, 32, 16
"""Fields of a message: parameters, names, and some to spare."""

VARINT_BYTES = 10
"""Longest number in a packed list."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Nested = Mapping[int, "Nested"]
"""Messages inside of a message, by field."""

_PARAMETER: Nested = {2: {}}
_CONTENTS: Nested = {}
_INPUT = {
    pb.ModelInferRequest.InferInputTensor.PARAMETERS_FIELD_NUMBER: _PARAMETER,
    pb.ModelInferRequest.InferInputTensor.CONTENTS_FIELD_NUMBER: _CONTENTS,
}
_REQUEST: Nested = {
    pb.ModelInferRequest.PARAMETERS_FIELD_NUMBER: _PARAMETER,
    pb.ModelInferRequest.INPUTS_FIELD_NUMBER: _INPUT,
    pb.ModelInferRequest.OUTPUTS_FIELD_NUMBER: {
        pb.ModelInferRequest.InferRequestedOutputTensor.PARAMETERS_FIELD_NUMBER: _PARAMETER
    },
}
_SHAPE = pb.ModelInferRequest.InferInputTensor.SHAPE_FIELD_NUMBER
_PACKED_VARINTS = frozenset(range(pb.InferTensorContents.BOOL_CONTENTS_FIELD_NUMBER, 6))


def check_message(raw: bytes, bounds: Bounds) -> None:
    """Raises OipError when the message holds more of something than `bounds` allows, or is cut off."""
    most = FIELDS + bounds.inputs * (PER_INPUT + bounds.dimensions + bounds.strings) + PER_OUTPUT * bounds.outputs
    pending = [(0, len(raw), _REQUEST)]
    fields = 0
    while pending:
        at, end, nested = pending.pop()
        while at < end:
            fields += 1
            if fields > most:
                raise OipError(
                    f"the message has more than {most} fields: send numbers packed or raw, and at most {bounds.inputs} "
                    f"inputs and {bounds.outputs} outputs"
                )
            tag, at = _varint(raw, at, end)
            field, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                _, at = _varint(raw, at, end)
            elif kind == _BYTES:
                size, at = _varint(raw, at, end)
                if size > end - at:
                    raise _cut_off()
                if nested is _INPUT and field == _SHAPE and size > VARINT_BYTES * bounds.dimensions:
                    raise OipError(f"a shape has more than the {bounds.dimensions} sizes that the model takes")
                if nested is _CONTENTS and field in _PACKED_VARINTS:
                    _check_packed(raw, at, size, bounds)
                if field in nested:
                    pending.append((at, at + size, nested[field]))
                at += size
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            else:
                raise OipError("not a ModelInferRequest: it has groups, which the protocol does not use")
        if at > end:
            raise _cut_off()


def _check_packed(raw: bytes, at: int, size: int, bounds: Bounds) -> None:
    """Small numbers take one byte on the wire and up to eight afterwards."""
    ends = np.frombuffer(raw, np.uint8, size, at) < 0x80
    if int(np.count_nonzero(ends)) > bounds.elements:
        raise OipError(f"an input has more than the {bounds.elements} elements that the model takes")


def _varint(raw: bytes, at: int, end: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = shift = 0
    while at < end and shift < 7 * VARINT_BYTES:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _cut_off()


def _cut_off() -> OipError:
    return OipError("not a ModelInferRequest: the message is cut off")
