"""Converts encoded images to model inputs: decode, turn upright, resize, crop or letterbox, normalise.

The lane calls this on its inference thread. An image that cannot be read raises, and the lane fails that item alone.
Whatever an image claims, its cost is bounded: by its pixels before it is decoded, and by the size of the crop after.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ExifTags import Base as ExifTag

from sponge_server.workers.image_header import WEBP, check_pixels, pixels_of
from sponge_server.workers.interface import ItemError

__all__ = ["ImageTransform", "Pixels"]

_FORMATS = ("JPEG", "PNG", "WEBP")

_RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by the EXIF orientation that the camera noted."""

_BACKGROUND = 255
"""Transparent parts become white, as on a page. The colours that a file keeps under them are arbitrary."""

_PLAIN_BYTES, _MOST_BYTES = 4, 12
"""Memory per pixel of an image that is resized as decoded, and of one that is converted or turned first."""

_RESIZED_PIXELS = 4_000_000
"""A larger result of the resize is never made: of a long thin image, it would have gigabytes."""

_KEPT_BYTES = 6
"""Memory per pixel of an image that is given on as it is: it is there twice for a moment."""

_WEBP_BYTES = 12
"""The decoder of a WebP holds the canvas three times, once it is opened."""

_PROGRESSIVE_BYTES = 8
"""The decoder of a progressive JPEG holds two bytes for each value of the full size, at any scale."""


def _always(_: int) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """Steps of the conversion, in order.

    Attributes:
        mode: colour mode, RGB or grey.
        resize: pixels of the short side; None: resize to exactly `crop`.
        crop: height and width of the centre crop; of the whole, with `fit` letterbox.
        fit: "letterbox" shows the whole image, as large as fits into the middle of `crop`, as detectors want it.
        fill: 0 to 255, what letterboxing puts around the image.
        mean, std: by channel; subtracted and divided after scaling to 0..1.
    """

    mode: Literal["RGB", "L"]
    resize: int | None
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    fit: Literal["crop", "letterbox"] = "crop"
    fill: int = 114

    def apply(self, data: bytes | memoryview, fits: Callable[[int], bool] = _always) -> npt.NDArray[np.float32]:
        """Returns channels x height x width.

        Args:
            fits: whether so many bytes of memory may be used for a moment, to decode the image.

        Raises:
            ItemError: the bytes are not a readable JPEG, PNG or WebP, or the image is too large.
        """
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size; twice the target keeps enough detail for the resize.
        with _decoded(data, fits, 2 * (self.resize or max(self.crop))) as pixels:
            fitted = self._letterboxed(pixels) if self.fit == "letterbox" else self._cropped(pixels)
            array = np.asarray(_opaque(fitted).convert(self.mode), dtype=np.float32)
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        mean, std = (np.asarray(v, dtype=np.float32)[:, None, None] * np.float32(255) for v in (self.mean, self.std))
        normal: npt.NDArray[np.float32] = (array - mean) / std
        return normal

    def _letterboxed(self, pixels: Image.Image) -> Image.Image:
        """The whole image in the middle of the crop's size."""
        high, wide = self.crop
        scale = min(wide / pixels.width, high / pixels.height)
        size = max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale))
        shown = _opaque(pixels if size == pixels.size else pixels.resize(size, _RESAMPLE[self.interpolation]))
        ground = Image.new(shown.mode, (wide, high), (self.fill,) * len(shown.getbands()))
        ground.paste(shown, ((wide - size[0]) // 2, (high - size[1]) // 2))
        return ground

    def _cropped(self, pixels: Image.Image) -> Image.Image:
        """The centre of the resized image."""
        high, wide = self.crop
        size = wide, high
        if self.resize is not None:
            least = min(pixels.size)
            width, height = (side * self.resize // least for side in pixels.size)
            size = max(wide, width), max(high, height)
        resample = _RESAMPLE[self.interpolation]
        left, top = round((size[0] - wide) / 2), round((size[1] - high) / 2)
        if size[0] * size[1] <= _RESIZED_PIXELS or size == pixels.size:
            if size != pixels.size:
                pixels = pixels.resize(size, resample)
            return pixels if size == (wide, high) else pixels.crop((left, top, left + wide, top + high))
        # The same without what lies outside of the crop. Its box has fractions, which Pillow rounds a little.
        across, down = pixels.width / size[0], pixels.height / size[1]
        right, bottom = min((left + wide) * across, pixels.width), min((top + high) * down, pixels.height)
        return pixels.resize((wide, high), resample, (left * across, top * down, right, bottom))


@dataclass(frozen=True, slots=True)
class Pixels:
    """Decodes an image, turns it upright and leaves it as it is otherwise."""

    mode: Literal["RGB", "L"]

    def apply(self, data: bytes | memoryview, fits: Callable[[int], bool] = _always) -> npt.NDArray[np.uint8]:
        """Returns height x width, x 3 for RGB. Arguments and errors are those of `ImageTransform.apply`."""
        with _decoded(data, fits, None) as pixels:
            return np.array(_opaque(pixels).convert(self.mode))


@contextlib.contextmanager
def _decoded(data: bytes | memoryview, fits: Callable[[int], bool], draft: int | None) -> Iterator[Image.Image]:
    """The image upright, in a mode whose values can be mixed. Whatever fails inside is the fault of the image.

    Args:
        draft: the least short side that is needed; None: the full size.
    """
    try:
        full = pixels_of(data)  # before the decoder sees it: that of a WebP takes its memory when it is opened
        if bytes(data[8:12]) == WEBP:
            _check_memory(full * (_WEBP_BYTES + _MOST_BYTES), fits)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            yield _upright(image, fits, draft)
    except ItemError:
        raise
    except Image.UnidentifiedImageError:
        raise ItemError("the image is broken: it begins as a JPEG, PNG or WebP, and cannot be read") from None
    except Exception as error:  # noqa: BLE001 - decoders raise anything for broken files, and it is the file's fault
        raise ItemError(f"the image cannot be read: {error or type(error).__name__}") from None


def _upright(image: Image.Image, fits: Callable[[int], bool], draft: int | None) -> Image.Image:
    full = image.width * image.height
    check_pixels(image.width, image.height)
    if draft is not None:
        image.draft(None, (draft, draft))
    need = image.width * image.height * (_PLAIN_BYTES if _is_plain(image) else _MOST_BYTES)
    if draft is None:
        need += full * _KEPT_BYTES
    if "progressive" in image.info:
        need += full * _PROGRESSIVE_BYTES
    _check_memory(need, fits)
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    pixels = _resizable(image)
    return pixels if turn is None else pixels.transpose(turn)


def _check_memory(need: int, fits: Callable[[int], bool]) -> None:
    if not fits(need):
        raise ItemError(
            f"decoding the image needs {need >> 20} MiB, which the memory limit does not leave: send a smaller one"
        )


def _is_plain(image: Image.Image) -> bool:
    return image.mode in ("L", "RGB") and not image.has_transparency_data and "exif" not in image.info


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ExifTag.Orientation)
    except Exception:  # noqa: BLE001 - a broken note about the image is no fault of its pixels
        return None


def _resizable(image: Image.Image) -> Image.Image:
    """The image in a mode whose values can be mixed: L, LA, RGB or RGBA, eight bits a value."""
    if image.mode.startswith("I"):
        return _eight_bits(image)
    if image.has_transparency_data:
        return image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, 0 to 65535, as 0 to 255. Pillow's own conversion would clip every value above 255 to white."""
    deep = np.asarray(image).clip(0, 65535).astype(np.uint16)
    grey = Image.fromarray(((deep - (deep >> 8) + 128) >> 8).astype(np.uint8))  # divided by 257, rounded
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(deep == key, 0, 255).astype(np.uint8))))


def _opaque(pixels: Image.Image) -> Image.Image:
    """The image on the background."""
    if pixels.mode not in ("LA", "RGBA"):
        return pixels
    bands = pixels.mode.removesuffix("A")
    ground = Image.new(bands, pixels.size, (_BACKGROUND,) * len(bands) if len(bands) > 1 else _BACKGROUND)
    ground.paste(pixels.convert(bands), mask=pixels.getchannel("A"))
    return ground
