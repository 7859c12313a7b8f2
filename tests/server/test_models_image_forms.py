"""One picture in every form of PNG and JPEG gives one answer; what an image claims never costs what it claims."""

from __future__ import annotations

import contextlib
import io
import resource
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sponge_server.models.images import ImageTransform
from sponge_server.workers.image_header import LONGEST_SIDE, MAX_PIXELS, image_size, pixels_of
from sponge_server.workers.interface import ItemError

COLOUR = ImageTransform("RGB", 256, (224, 224), (0.0,) * 3, (1 / 255,) * 3)
"""Gives the pixels themselves, 0 to 255."""
GREY = ImageTransform("L", None, (16, 16), (0.0,), (1 / 255,))

SIDE = 64
RAMP = np.tile((np.arange(SIDE) * 255 // (SIDE - 1)).astype(np.uint8), (SIDE, 1))
LEVEL = 1.01
"""One step of 255, for rounding."""

Array = npt.NDArray[Any]


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of the given kind from its packed rows, each without its filter byte; `more`: chunks before the pixels."""
    step = len(rows) // height if height else 0
    lines = b"".join(b"\0" + rows[i * step : (i + 1) * step] for i in range(height))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)), *more]
    chunks += [(b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def deep(values: Array) -> bytes:
    """Bytes of 16-bit values as PNG orders them, from values of 8 bits."""
    return (values.astype(np.uint16) * 257).astype(">u2").tobytes()


def stacked(*bands: Array) -> Array:
    return np.stack(bands, -1)


OPAQUE = np.full_like(RAMP, 255)
PALETTE = bytes(value for level in range(256) for value in (level,) * 3)
FORMS = {
    "grey": encoded(Image.fromarray(RAMP)),
    "grey of 16 bits": raw_png(SIDE, SIDE, 16, 0, deep(RAMP)),
    "grey and alpha": raw_png(SIDE, SIDE, 8, 4, stacked(RAMP, OPAQUE).tobytes()),
    "grey and alpha of 16 bits": raw_png(SIDE, SIDE, 16, 4, deep(stacked(RAMP, OPAQUE))),
    "colours of 16 bits": raw_png(SIDE, SIDE, 16, 2, deep(stacked(RAMP, RAMP, RAMP))),
    "RGBA": raw_png(SIDE, SIDE, 8, 6, stacked(RAMP, RAMP, RAMP, OPAQUE).tobytes()),
    "RGBA of 16 bits": raw_png(SIDE, SIDE, 16, 6, deep(stacked(RAMP, RAMP, RAMP, OPAQUE))),
    "palette": raw_png(SIDE, SIDE, 8, 3, RAMP.tobytes(), (b"PLTE", PALETTE)),
    "palette, all opaque": raw_png(SIDE, SIDE, 8, 3, RAMP.tobytes(), (b"PLTE", PALETTE), (b"tRNS", b"\xff" * 256)),
    "grey, a key that does not occur": raw_png(SIDE, SIDE, 16, 0, deep(RAMP), (b"tRNS", b"\0\1")),
    "CMYK": encoded(Image.fromarray(RAMP).convert("CMYK"), "JPEG", quality=100),
    "progressive JPEG": encoded(Image.fromarray(RAMP), "JPEG", quality=100, progressive=True),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("transform", [COLOUR, GREY], ids=["colour", "grey"])
def test_every_form_of_a_picture_gives_the_same_pixels(form: str, transform: ImageTransform) -> None:
    plain = transform.apply(encoded(Image.fromarray(stacked(RAMP, RAMP, RAMP))))
    tolerance = 3 * LEVEL if form in ("CMYK", "progressive JPEG") else LEVEL
    np.testing.assert_allclose(transform.apply(FORMS[form]), plain, atol=tolerance)


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=64))
def test_sixteen_bits_are_scaled_and_stay_in_order(values: list[int]) -> None:
    row = np.array(values, np.uint16)
    exact = ImageTransform("L", None, (1, len(values)), (0.0,), (1 / 255,))
    got = exact.apply(raw_png(len(values), 1, 16, 0, row.astype(">u2").tobytes()))[0, 0]
    np.testing.assert_allclose(got, row / 257, atol=0.51)
    assert (np.diff(got[np.argsort(row, kind="stable")]) >= 0).all()


@pytest.mark.parametrize(
    "data",
    [
        raw_png(16, 16, 8, 6, bytes((200, 10, 30, 0)) * 256),
        raw_png(16, 16, 8, 4, bytes((77, 0)) * 256),
        raw_png(16, 16, 8, 3, bytes(256), (b"PLTE", bytes((9, 9, 9))), (b"tRNS", b"\0")),
        raw_png(16, 16, 8, 0, bytes((5,)) * 256, (b"tRNS", struct.pack(">H", 5))),
        raw_png(16, 16, 16, 0, struct.pack(">H", 1234) * 256, (b"tRNS", struct.pack(">H", 1234))),
        raw_png(16, 16, 8, 2, bytes((1, 2, 3)) * 256, (b"tRNS", struct.pack(">HHH", 1, 2, 3))),
    ],
    ids=["RGBA", "LA", "palette", "grey key", "grey key of 16 bits", "colour key"],
)
def test_transparent_parts_are_white_whatever_colour_lies_under_them(data: bytes) -> None:
    assert (GREY.apply(data) == 255).all()
    assert (COLOUR.apply(data) == 255).all()


def test_half_transparent_parts_are_mixed_with_white() -> None:
    data = raw_png(16, 16, 8, 6, bytes((0, 0, 0, 128)) * 256)
    np.testing.assert_allclose(GREY.apply(data), 127, atol=LEVEL)


TURNS: dict[int, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).T,
    8: lambda a: np.rot90(a, -1),
}
"""How a camera that noted this orientation stored an upright picture."""


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_picture_is_turned_as_its_camera_noted(orientation: int, form: str) -> None:
    upright = np.zeros((48, 96), np.uint8)
    upright[:16, :32], upright[32:, 64:] = 250, 120
    stored = np.ascontiguousarray(TURNS[orientation](upright))
    note = Image.Exif()
    note[0x0112] = orientation
    options = {"quality": 100} if form == "JPEG" else {}
    exact = ImageTransform("L", None, (48, 96), (0.0,), (1 / 255,))
    got = exact.apply(encoded(Image.fromarray(stored), form, exif=note, **options))[0]
    np.testing.assert_allclose(got, upright, atol=8 if form == "JPEG" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "note", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"x"]
)
def test_a_broken_note_is_no_fault_of_the_picture(note: bytes) -> None:
    data = encoded(Image.fromarray(RAMP), "JPEG", exif=note)
    np.testing.assert_array_equal(GREY.apply(data), GREY.apply(encoded(Image.fromarray(RAMP), "JPEG")))


@pytest.mark.parametrize(("width", "height"), [(1, 1200), (65_535, 1), (1, 65_535), (50_000, 1000), (3, 40_000)])
def test_a_long_thin_image_costs_no_more_than_its_pixels(width: int, height: int) -> None:
    data = raw_png(width, height, 8, 0, bytes((90,)) * width * height)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    got = COLOUR.apply(data)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert got.shape == (3, 224, 224)
    np.testing.assert_allclose(got, 90, atol=LEVEL)
    assert grown_mib < 150


def test_the_crop_of_a_large_result_is_what_a_whole_resize_would_give() -> None:
    y, x = np.mgrid[0:60, 0:2000]
    waves = ((np.sin(x / 40) + np.cos(y / 9) + 2) / 4 * 255).astype(np.uint8)
    whole = Image.fromarray(waves).resize((2000 * 256 // 60, 256), Image.Resampling.BILINEAR)
    got = COLOUR.apply(encoded(Image.fromarray(np.tile(waves, (1, 9)))))  # more than is resized as a whole
    left = (18_000 * 256 // 60 - 224) // 2 % (2000 * 256 / 60)
    expected = np.asarray(whole, np.float32)[16:240, round(left) : round(left) + 224]
    np.testing.assert_allclose(got[0], expected, atol=4)


@pytest.mark.parametrize(("width", "height"), [(9_000_000, 1), (1, 65_536), (2**31 - 1, 1), (8000, 8000)])
def test_an_image_of_an_unusual_size_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    with pytest.raises(ItemError, match=f"{width:,} x {height:,}"):
        COLOUR.apply(raw_png(width, height, 8, 0, b""))


SIZES = [(1, 1), (640, 480), (MAX_PIXELS, 1), (2**31 - 1, 1), (65535, 65535), (0, 5)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_size_is_read_from_the_header_alone(width: int, height: int) -> None:
    assert image_size(raw_png(width, height, 8, 0, b"")) == (width, height)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(4000)}, {"comment": b"x"}])
def test_the_size_of_a_jpeg_is_read_behind_its_notes(options: dict[str, Any]) -> None:
    data = encoded(Image.new("RGB", (70, 33)), "JPEG", **options)
    assert image_size(data) == (70, 33)
    assert pixels_of(data) == 70 * 33


@given(st.binary(max_size=200).map(lambda tail: b"\xff\xd8" + tail) | st.binary(max_size=40))
def test_any_bytes_have_a_size_or_none(data: bytes) -> None:
    size = image_size(data)
    assert size is None or (len(size) == 2 and min(size) >= 0)
    try:
        assert pixels_of(data) == (MAX_PIXELS if size is None else size[0] * size[1])
    except ItemError:
        if size is None:
            assert not data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))
            return
        assert not (min(size) > 0 and size[0] * size[1] <= MAX_PIXELS and max(size) <= LONGEST_SIDE)


@pytest.mark.parametrize("data", [b"", b"hello", b"GIF89a", b"\xff\xd8", b"\x89PNG\r\n\x1a"])
def test_what_no_decoder_would_try_is_refused_by_its_first_bytes(data: bytes) -> None:
    with pytest.raises(ItemError, match="not a JPEG, PNG or WebP"):
        pixels_of(memoryview(data))


SEEDS = [FORMS["grey of 16 bits"], FORMS["palette, all opaque"], FORMS["progressive JPEG"], FORMS["CMYK"]]


@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=8), st.data())
def test_a_damaged_file_is_refused_or_answered(
    seed: bytes, changes: list[tuple[int, int]], data: st.DataObject
) -> None:
    broken = bytearray(seed)
    for at, value in changes:
        broken[at % len(broken)] = value
    del broken[data.draw(st.integers(0, len(broken))) :]
    size = image_size(bytes(broken))
    if size is not None and MAX_PIXELS >= size[0] * size[1] > 1_000_000:
        return  # legal, and slow for a test of this many examples
    with contextlib.suppress(ItemError):
        assert GREY.apply(bytes(broken)).shape == (1, 16, 16)


def test_memory_that_is_not_there_is_asked_for_before_it_is_used() -> None:
    asked: list[int] = []

    def refuse(need: int) -> bool:
        asked.append(need)
        return False

    with pytest.raises(ItemError, match="needs 11 MiB, which the memory limit does not leave"):
        COLOUR.apply(encoded(Image.new("RGB", (2000, 1500))), refuse)
    assert asked == [2000 * 1500 * 4]
