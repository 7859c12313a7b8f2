"""WebP in every form, letterboxing, and images left as they are. What a header claims is bounded before decoding."""

from __future__ import annotations

import contextlib
import io
import resource
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sponge_server.models.exported import SidecarImage
from sponge_server.models.images import ImageTransform, Pixels
from sponge_server.workers.image_header import MAX_PIXELS, image_size, pixels_of
from sponge_server.workers.interface import ItemError

EXACT = ImageTransform("RGB", None, (64, 64), (0.0,) * 3, (1 / 255,) * 3)
RAMP = np.tile((np.arange(64) * 255 // 63).astype(np.uint8), (64, 1))
PICTURE = np.stack([RAMP, RAMP.T, np.full_like(RAMP, 90)], -1)


def encoded(array: np.ndarray, form: str = "WEBP", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def canvas(width: int, height: int, flags: int = 0) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return chunk(b"VP8X", bytes((flags, 0, 0, 0)) + sizes)


def noted(orientation: int) -> Image.Exif:
    note = Image.Exif()
    note[0x0112] = orientation
    return note


OPAQUE = np.dstack([PICTURE, np.full_like(RAMP, 255)])
FORMS: dict[str, tuple[bytes, float]] = {
    "lossless": (encoded(PICTURE, lossless=True), 0),
    "lossy": (encoded(PICTURE, quality=100), 12),
    "with an alpha": (encoded(OPAQUE, lossless=True), 0),
    "with notes": (encoded(PICTURE, lossless=True, exif=noted(1), icc_profile=b"x" * 40), 0),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_pixels_of_a_png(form: str) -> None:
    data, tolerance = FORMS[form]
    assert image_size(data) == (64, 64)
    assert pixels_of(data) == 64 * 64
    np.testing.assert_allclose(EXACT.apply(data), EXACT.apply(encoded(PICTURE, "PNG")), atol=tolerance + 0.01)
    np.testing.assert_allclose(Pixels("RGB").apply(data).astype(int), PICTURE, atol=tolerance)


def test_an_animation_is_its_first_picture() -> None:
    frames = [Image.fromarray(PICTURE), Image.new("RGB", (64, 64), "white")]
    for form, options in (("WEBP", {"lossless": True}), ("PNG", {})):
        buffer = io.BytesIO()
        frames[0].save(buffer, form, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(Pixels("RGB").apply(buffer.getvalue()), PICTURE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_as_its_camera_noted(orientation: int) -> None:
    turned = Pixels("RGB").apply(encoded(PICTURE, lossless=True, exif=noted(orientation)))
    right = Pixels("RGB").apply(encoded(PICTURE, "PNG", exif=noted(orientation)))
    np.testing.assert_array_equal(turned, right)


def test_transparent_parts_are_white() -> None:
    clear = np.dstack([PICTURE, np.zeros_like(RAMP)])
    assert (Pixels("L").apply(encoded(clear, lossless=True)) == 255).all()


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (riff(canvas(1 << 24, 1 << 24)), "at most 65,535 a side"),
        (riff(canvas(16_383, 16_383)), "more than 50,000,000 pixels"),
        (riff(canvas(16_383, 16_383, flags=2), chunk(b"ANIM", bytes(6))), "more than 50,000,000 pixels"),
        (riff(chunk(b"VP8 ", b"\x30\1\0\x9d\1\x2a" + struct.pack("<HH", 16_383, 16_383))), "more than 50,000,000"),
        (riff(chunk(b"VP8L", b"\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(20))), "more than 50,000,000 pixels"),
        (riff(chunk(b"VP8L", b"\x2e" + bytes(40))), "a WebP whose header is broken"),
        (riff(chunk(b"ICCP", bytes(40))), "a WebP whose header is broken"),
        (riff(), "a WebP whose header is broken"),
        (riff(canvas(10, 10)), "the image .*broken|cannot be read"),
        (riff(canvas(10, 10), encoded(np.zeros((4000, 4000), np.uint8), lossless=True)[12:]), "cannot be read"),
        (FORMS["lossless"][0][:60], "cannot be read"),
    ],
)
def test_what_a_header_claims_is_refused_before_it_is_decoded(data: bytes, message: str) -> None:
    before = peak_mib()
    with pytest.raises(ItemError, match=message):
        EXACT.apply(data)
    assert peak_mib() - before < 100


def test_the_memory_of_the_decoder_is_asked_for_before_it_opens() -> None:
    asked: list[int] = []

    def fits(need: int) -> bool:
        asked.append(need)
        return False

    with pytest.raises(ItemError, match="the memory limit does not leave: send a smaller one"):
        EXACT.apply(encoded(np.zeros((1000, 2000, 3), np.uint8), lossless=True), fits)
    assert asked[0] >= 12 * 2_000_000


@given(
    st.sampled_from([data for data, _ in FORMS.values()]),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_a_damaged_file_is_refused_or_answered(seed: bytes, changes: list[tuple[int, int]], kept: float) -> None:
    broken = bytearray(seed)
    for at, value in changes:
        broken[at % len(broken)] = value
    del broken[round(len(broken) * kept) :]
    size = image_size(bytes(broken))
    if size is not None and MAX_PIXELS >= size[0] * size[1] > 1_000_000:
        return  # a valid claim, and slow
    with contextlib.suppress(ItemError):
        assert EXACT.apply(bytes(broken)).shape == (3, 64, 64)


BOXED = ImageTransform("RGB", None, (40, 80), (0.0,) * 3, (1 / 255,) * 3, fit="letterbox")


@pytest.mark.parametrize(
    ("wide", "high", "left", "top", "shown"),
    [
        (80, 40, 0, 0, (80, 40)),
        (160, 80, 0, 0, (80, 40)),
        (20, 20, 20, 0, (40, 40)),
        (400, 100, 0, 10, (80, 20)),
        (1, 4000, 39, 0, (1, 40)),
        (33, 21, 8, 0, (63, 40)),
    ],
)
def test_letterboxing_shows_the_whole_image_in_the_middle(
    wide: int, high: int, left: int, top: int, shown: tuple[int, int]
) -> None:
    got = BOXED.apply(encoded(np.full((high, wide, 3), 200, np.uint8), "PNG"))
    assert got.shape == (3, 40, 80)
    expected = np.full((40, 80), 114.0)
    expected[top : top + shown[1], left : left + shown[0]] = 200
    for band in got:
        np.testing.assert_allclose(band, expected, atol=0.51)


def test_letterboxing_keeps_the_ratio_and_the_fill_in_grey_too() -> None:
    grey = ImageTransform("L", None, (8, 8), (0.0,), (1 / 255,), fit="letterbox", fill=0)
    got = grey.apply(encoded(np.full((4, 8), 255, np.uint8), "PNG"))[0]
    assert got[:2].max() == 0
    assert got[6:].max() == 0
    assert got[2:6].min() > 254


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_pixels_keep_the_full_size_of_a_large_image(form: str) -> None:
    array = np.full((900, 1200, 3), 77, np.uint8)
    pixels = Pixels("RGB").apply(encoded(array, form))
    assert pixels.shape == (900, 1200, 3)
    assert pixels.dtype == np.uint8
    assert Pixels("L").apply(encoded(array, form)).shape == (900, 1200)


def test_a_sidecar_chooses_one_way_of_resizing() -> None:
    common: dict[str, Any] = {"mode": "RGB", "crop": (8, 8), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    assert SidecarImage(**common, fit="letterbox").fill == 114
    with pytest.raises(ValueError, match="with fit letterbox, the whole image goes into crop: leave resize out"):
        SidecarImage(**common, fit="letterbox", resize=9)


def cmyk() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).convert("CMYK").save(buffer, "JPEG", quality=100)
    return buffer.getvalue()


@pytest.mark.parametrize("make", [cmyk, lambda: encoded(OPAQUE, "PNG"), lambda: encoded(RAMP, "PNG")])
def test_pixels_have_three_colours_whatever_came(make: Callable[[], bytes]) -> None:
    assert Pixels("RGB").apply(make()).shape == (64, 64, 3)
