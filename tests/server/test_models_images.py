"""Encoded images to tensors: the same numbers as torchvision's own transforms, and clear errors for broken files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sponge_server.models.images import ImageTransform
from sponge_server.workers.interface import ItemError

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def preset() -> Any:
    """ResNet-18's own transform. Imported here: torchvision takes seconds, and only these tests use it."""
    from torchvision.models import ResNet18_Weights

    return ResNet18_Weights.DEFAULT.transforms()


RGB = ImageTransform("RGB", 256, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 9) + np.cos(y / 7), np.sin(x / 5), np.cos(y / 11)], -1)
    return Image.fromarray(((waves + 2) / 4 * 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(640, 480), (300, 500), (224, 224), (333, 257), (60, 90)])
def test_equal_to_torchvisions_preset(size: tuple[int, int], preset: Any) -> None:
    image = picture(*size)
    ours = torch.from_numpy(RGB.apply(encoded(image)))
    assert ours.shape == (3, 224, 224)
    torch.testing.assert_close(ours, preset(image), atol=1e-4, rtol=1e-4)


def test_a_large_jpeg_decoded_at_a_fraction_looks_the_same(preset: Any) -> None:
    data = encoded(picture(2400, 1800), "JPEG", quality=95)
    full = Image.open(io.BytesIO(data)).convert("RGB")
    difference = np.abs(RGB.apply(data) - preset(full).numpy())
    assert difference.mean() < 0.02  # of a standard deviation


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_colour_modes_are_converted(mode: str) -> None:
    data = encoded(picture(300, 300, mode), "JPEG" if mode == "CMYK" else "PNG")
    assert RGB.apply(data).shape == (3, 224, 224)


def test_grayscale_without_resize_keeps_the_pixels() -> None:
    plain = ImageTransform("L", None, (8, 8), (0.0,), (1.0,))
    image = picture(8, 8, "L")
    expected = np.asarray(image, dtype=np.float32)[None] / 255
    np.testing.assert_allclose(plain.apply(encoded(image)), expected, atol=1e-6)
    assert plain.apply(encoded(picture(31, 17))).shape == (1, 8, 8)


JPEG = encoded(picture(300, 300), "JPEG")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a JPEG, PNG or WebP"),
        (b"hello", "not a JPEG, PNG or WebP"),
        (encoded(picture(30, 30), "GIF"), "not a JPEG, PNG or WebP"),
        (JPEG[: len(JPEG) // 2], "cannot be read: image file is truncated"),
        (encoded(picture(300, 300))[:200], "cannot be read"),
        (encoded(Image.new("1", (9000, 9000))), "more than 50,000,000 pixels"),
        (encoded(Image.new("1", (12000, 12000))), "more than 50,000,000 pixels"),
    ],
)
def test_unreadable_files_are_refused_with_the_reason(data: bytes, message: str) -> None:
    with pytest.raises(ItemError, match=message):
        RGB.apply(data)
