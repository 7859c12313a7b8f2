"""Bodies that a model takes: photographs where it takes images, random tensors where it does not.

Made before the run and shared by its requests. Knows nothing of when they are sent.
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
"""Pixels: what image models take after their own resizing, so that decoding stays a small part of the work."""

JPEG_QUALITIES = (90, 75, 50, 25, 10)
SIZE_DIGITS = 16
RANDOM_BODIES = 4
FREE_SIDE = 224
"""For a dimension that the model leaves open in an image-shaped input; 1 elsewhere."""


def image_bodies(model: ModelMetadata, payload_bytes: int | None) -> list[InferBody]:
    """Requests with one photograph each.

    Args:
        payload_bytes: size of each body; images are padded behind their end, which decoders skip. None: as it comes.

    Raises:
        LoadError: the size is too small, or the libraries for images are missing.
    """
    return [_image_body(model, photograph, payload_bytes) for photograph in _photographs()]


def tensor_bodies(model: ModelMetadata, payload_bytes: int | None, seed: int) -> list[InferBody]:
    """Requests with one row of random values each.

    Raises:
        LoadError: `payload_bytes` is not the size that a row has, or an input holds no numbers.
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
            # The size is written into the JSON part, which it may lengthen: the last bytes are made up for there.
            padded = image + bytes(max(0, spare - SIZE_DIGITS))
            return encode([Tensor.of_images(name, [padded])], payload_bytes)
    smallest = len(encode([Tensor.of_images(name, [qualities[-1]])]).data)
    raise LoadError(f"--payload-bytes {payload_bytes}: an image request needs at least {smallest} bytes")


def _photographs() -> Iterable[list[bytes]]:
    """Square crops of scikit-learn's two sample photographs as JPEG, each in falling quality and size."""
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
    """One row of what `spec` takes; its first dimension is the batch."""
    dtype = NUMPY_TYPES.get(spec.datatype)
    if dtype is None:
        raise LoadError(f"input {spec.name} has datatype {spec.datatype}, for which there are no random values")
    free = FREE_SIDE if len(spec.shape) == 4 else 1
    shape = (1, *(free if size < 0 else size for size in spec.shape[1:]))
    if dtype.kind == "f":
        values = rng.standard_normal(shape).astype(dtype)
    else:
        high = 2 if dtype.kind == "b" else np.iinfo(dtype).max
        values = rng.integers(0, high, shape).astype(dtype)
    assert values.size == math.prod(shape)
    return Tensor(spec.name, spec.datatype, shape, values.tobytes())
