"""Converts encoded images to model inputs: decode, resize, crop, normalise.

The lane calls this on its inference thread. An image that cannot be read raises, and the lane fails that item alone.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from sponge_server.workers.interface import ItemError

__all__ = ["ImageTransform"]

Image.MAX_IMAGE_PIXELS = 50_000_000  # more than any relevant camera; protects against decompression bombs

_RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """Steps of the conversion, in order.

    Attributes:
        mode: colour mode, RGB or grey.
        resize: pixels of the short side; None: resize to exactly `crop`.
        crop: height and width of the centre crop.
        mean, std: by channel; subtracted and divided after scaling to 0..1.
    """

    mode: Literal["RGB", "L"]
    resize: int | None
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def apply(self, data: bytes | memoryview) -> npt.NDArray[np.float32]:
        """Returns channels x height x width. Raises ItemError when the bytes are not a readable JPEG or PNG."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
                    return self._pixels(image)
        except Image.UnidentifiedImageError:
            raise ItemError("the image is not a JPEG or PNG") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise ItemError(f"the image has more than {Image.MAX_IMAGE_PIXELS:,} pixels: send a smaller one") from None
        except (OSError, ValueError, SyntaxError, EOFError) as error:  # what Pillow raises for broken files
            raise ItemError(f"the image cannot be read: {error}") from None

    def _pixels(self, image: Image.Image) -> npt.NDArray[np.float32]:
        height, width = self.crop
        short = self.resize or max(self.crop)
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size; twice the target keeps enough detail for the resize.
        image.draft(None, (2 * short, 2 * short))
        pixels = image.convert(self.mode)
        if self.resize is None:
            size = (width, height)
        else:
            least = min(pixels.size)
            wide, high = (side * self.resize // least for side in pixels.size)
            size = (max(width, wide), max(height, high))
        if size != pixels.size:
            pixels = pixels.resize(size, _RESAMPLE[self.interpolation])
        left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
        if size != (width, height):
            pixels = pixels.crop((left, top, left + width, top + height))
        array = np.asarray(pixels, dtype=np.float32)
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        mean, std = (np.asarray(v, dtype=np.float32)[:, None, None] * np.float32(255) for v in (self.mean, self.std))
        normal: npt.NDArray[np.float32] = (array - mean) / std
        return normal
