"""Open Inference Protocol V2 with the binary tensor extension, as a client writes and reads it.

A codec on bytes: opens no connection. Elements of datatype BYTES (encoded images) carry a four-byte length each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sponge_client.errors import ServerError
from sponge_core.datatypes import NUMPY_TYPES

__all__ = ["HEADER_LENGTH", "InferBody", "ModelMetadata", "Output", "Tensor", "TensorSpec", "decode", "encode"]

HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output as the server declares it; -1 in `shape` takes any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """`GET /v2/models/NAME`: what the model takes; the first dimension of each shape is the batch."""

    name: str
    inputs: tuple[TensorSpec, ...]

    @property
    def image_like(self) -> bool:
        """One input of three channels or of bytes: the server may well take encoded images for it."""
        first = self.inputs[0]
        pixels = len(first.shape) == 4 and first.shape[1] == 3
        return len(self.inputs) == 1 and (first.datatype == "BYTES" or pixels)

    @classmethod
    def parse(cls, document: object) -> ModelMetadata:
        """Raises ServerError when the document is no model metadata."""
        try:
            body: Any = document
            inputs = tuple(TensorSpec(i["name"], i["datatype"], tuple(map(int, i["shape"]))) for i in body["inputs"])
            name = str(body["name"])
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(f"the server's model metadata cannot be read: {error!r}") from None
        if not inputs:
            raise ServerError(f"model {name} declares no inputs")
        return cls(name, inputs)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input to send: raw little-endian row-major bytes; of datatype BYTES, elements with their lengths before."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of_images(cls, name: str, images: Sequence[bytes]) -> Tensor:
        """Encoded images (JPEG, PNG, WebP), one a row."""
        data = b"".join(len(image).to_bytes(4, "little") + image for image in images)
        return cls(name, "BYTES", (len(images),), data)


@dataclass(frozen=True, slots=True)
class InferBody:
    """The body of an infer request: `header_length` bytes of JSON, then the tensors."""

    data: bytes
    header_length: int

    @property
    def headers(self) -> dict[str, str]:
        return {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(len(self.data)),
            HEADER_LENGTH: str(self.header_length),
        }


Output = np.ndarray[Any, Any]


def encode(inputs: Sequence[Tensor], total_bytes: int = 0) -> InferBody:
    """A request for all outputs of a model, in binary both ways; blanks in the JSON part make up to `total_bytes`."""
    entries = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
            "parameters": {"binary_data_size": len(tensor.data)},
        }
        for tensor in inputs
    ]
    head = json.dumps({"inputs": entries, "parameters": {"binary_data_output": True}}, separators=(",", ":")).encode()
    head = head.ljust(total_bytes - sum(len(tensor.data) for tensor in inputs))
    return InferBody(b"".join([head, *(tensor.data for tensor in inputs)]), len(head))


def decode(headers: Mapping[str, str], body: bytes) -> dict[str, Output]:
    """The outputs of an answer by name.

    Args:
        headers: names in lower case.

    Raises:
        ServerError: the body is not an answer of the protocol, or holds a datatype that numpy lacks.
    """
    try:
        length = int(headers.get(HEADER_LENGTH.lower(), len(body)))
        outputs: dict[str, Output] = {}
        offset = length
        for entry in json.loads(body[:length])["outputs"]:
            shape = tuple(entry["shape"])
            dtype = NUMPY_TYPES[entry["datatype"]]
            size = entry.get("parameters", {}).get("binary_data_size")
            if size is None:
                values = np.asarray(entry["data"], dtype)
            else:
                values = np.frombuffer(body, dtype, math.prod(shape), offset)
                offset += size
            outputs[entry["name"]] = values.reshape(shape)
    except UnicodeDecodeError:
        raise ServerError("the server's answer cannot be read: its JSON part is no text") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServerError(f"the server's answer cannot be read: {str(error)[:100]}") from None
    return outputs
