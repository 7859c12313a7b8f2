"""Request bodies for a model: photographs if it takes images, else random tensors.

They are made before the run, and its requests share them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable

import numpy as np

from sponge_client.errors import LoadError
from sponge_client.oip import InferBody, ModelMetadata, Tensor, TensorSpec, encode
from sponge_core.datatypes import NUMPY_TYPES
from sponge_core.errors import needs_extra

__all__ = ["image_bodies", "tensor_bodies"]

IMAGE_SIDE = 256
"""Pixels. About the size that image models resize to, so that decoding stays a small part of the work."""

JPEG_QUALITIES = (90, 75, 50, 25, 10)
SIZE_DIGITS = 16
RANDOM_BODIES = 4
FREE_SIDE = 224
"""Size of a free dimension of an image-shaped input; other free dimensions get 1."""


def image_bodies(model: ModelMetadata, payload_bytes: int | None) -> list[InferBody]:
    """Requests with one photograph each.

    Args:
        payload_bytes: size of each body; bytes behind the end of the image fill it up, and decoders skip them. None:
            the size of the image.

    Raises:
        LoadError: the size is too small, or the libraries for images are missing.
    """
    return [_image_body(model, photograph, payload_bytes) for photograph in _photographs()]


def tensor_bodies(model: ModelMetadata, payload_bytes: int | None, seed: int) -> list[InferBody]:
    """Requests with one row of random values each.

    Raises:
        LoadError: `payload_bytes` is not the size of a row, or an input is not numeric.
    """
    rng = np.random.default_rng(seed)
    bodies = [encode([_random(spec, rng) for spec in model.inputs]) for _ in range(RANDOM_BODIES)]
    size = len(bodies[0].data)
    if payload_bytes is not None and payload_bytes != size:
        raise LoadError(
            f"--payload-bytes {payload_bytes}: a request to {model.name} is a tensor of {size} bytes in all; "
            f"leave the option out or give {size}"
        )
    return bodies


def _image_body(model: ModelMetadata, qualities: list[bytes], payload_bytes: int | None) -> InferBody:
    name = model.inputs[0].name
    if payload_bytes is None:
        return encode([Tensor.of_images(name, [qualities[0]])])
    for image in qualities:
        spare = payload_bytes - len(encode([Tensor.of_images(name, [image])]).data)
        if spare >= 0:
            # The JSON part holds the size and may get longer with it: `encode` pads it to the exact total.
            padded = image + bytes(max(0, spare - SIZE_DIGITS))
            return encode([Tensor.of_images(name, [padded])], payload_bytes)
    smallest = len(encode([Tensor.of_images(name, [qualities[-1]])]).data)
    raise LoadError(f"--payload-bytes {payload_bytes}: an image request needs at least {smallest} bytes")


def _photographs() -> Iterable[list[bytes]]:
    """Square crops of scikit-learn's two sample photographs, each as JPEG in falling quality and size."""
    try:
        from PIL import Image
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise LoadError(needs_extra("a load of images", str(error.name), "samples")) from None
    for pixels in load_sample_images().images:
        height, width, _ = pixels.shape
        for left in (0, width - height):
            square = Image.fromarray(pixels[:, left : left + height]).resize((IMAGE_SIDE, IMAGE_SIDE))
            yield [_jpeg(square, quality) for quality in JPEG_QUALITIES]


def _jpeg(image: object, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)  # type: ignore[attr-defined]
    return stream.getvalue()


def _random(spec: TensorSpec, rng: np.random.Generator) -> Tensor:
    """One row of random values for an input; the first dimension is the batch."""
    dtype = NUMPY_TYPES.get(spec.datatype)
    if dtype is None:
        raise LoadError(f"input {spec.name} has datatype {spec.datatype}, which has no random values")
    free = FREE_SIDE if len(spec.shape) == 4 else 1
    shape = (1, *(free if size < 0 else size for size in spec.shape[1:]))
    if dtype.kind == "f":
        values = rng.standard_normal(shape).astype(dtype)
    else:
        high = 2 if dtype.kind == "b" else np.iinfo(dtype).max
        values = rng.integers(0, high, shape).astype(dtype)
    assert values.size == math.prod(shape)
    return Tensor(spec.name, spec.datatype, shape, values.tobytes())
