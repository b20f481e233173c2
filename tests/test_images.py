import io
import struct
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL import __version__ as PILLOW
from tests.pictures import RAMP, as_array, message, png, stored

from paligemma import images
from paligemma.images import open_image


def grey_in_mode(mode: str) -> Image.Image:
    """The ramp as a picture of that mode."""
    if mode.startswith("I;16"):
        dtype = {"I;16": "<u2", "I;16B": ">u2"}[mode]
        return Image.frombytes(mode, (6, 4), (RAMP.astype(dtype) * 257).astype(dtype).tobytes())
    if mode == "I":
        return Image.fromarray(RAMP.astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(RAMP.astype(np.float32) / 255)
    if mode == "P":
        return Image.fromarray(RAMP).convert("P")  # with a grey palette
    return Image.fromarray(RAMP).convert("RGB").convert(mode)


EXACT = [
    *(("PNG", mode) for mode in ("L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(("WEBP", mode) for mode in ("L", "RGB", "RGBA")),
    *(("BMP", mode) for mode in ("L", "P", "RGB", "RGBA")),
    *(("GIF", mode) for mode in ("L", "P", "RGB")),
    *(("TIFF", mode) for mode in ("L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "I;16B", "F")),
    *((("TIFF", "YCbCr"),) if int(PILLOW.split(".")[0]) >= 13 else ()),  # 12 cannot read those that it wrote itself
    *(("PPM", mode) for mode in ("L", "RGB", "I", "F")),
    *((None, mode) for mode in ("L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")),
    *((None, mode) for mode in ("I", "F", "I;16", "I;16B")),
]


@pytest.mark.parametrize(("format", "mode"), EXACT)
def test_every_mode_shows_the_same_grey_picture(format: str | None, mode: str) -> None:
    if mode == "La":
        image = Image.merge("LA", (Image.fromarray(RAMP), Image.new("L", (6, 4), 255))).convert("La")
    elif mode == "PA":
        image = grey_in_mode("P").convert("PA")
    elif mode == "RGBa":
        image = grey_in_mode("RGBA").convert("RGBa")
    else:
        image = grey_in_mode(mode)
    assert image.mode == mode
    options = {"lossless": True} if format == "WEBP" else {}
    source = stored(image, format, **options) if format else image
    got = as_array(open_image(source)).astype(int)
    assert got.shape == (4, 6, 3)
    assert np.abs(got - RAMP[..., None]).max() <= (1 if mode == "YCbCr" else 0)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_one_bit_pictures_become_black_and_white(format: str) -> None:
    bits = RAMP > 100
    got = as_array(open_image(stored(Image.fromarray(bits), format)))
    assert np.array_equal(got, np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


@pytest.mark.parametrize(
    ("format", "mode", "options"),
    [
        ("JPEG", "L", {}),
        ("JPEG", "RGB", {"subsampling": 0}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("WEBP", "RGB", {}),
        ("TIFF", "LAB", {}),
    ],
)
def test_lossy_pictures_come_close(format: str, mode: str, options: dict[str, object]) -> None:
    flat = Image.new("RGB", (16, 16), (128, 128, 128))
    image = Image.new("LAB", (16, 16), (137, 128, 128)) if mode == "LAB" else flat.convert(mode)
    assert np.abs(as_array(open_image(stored(image, format, **options))).astype(int) - 128).max() <= 8


# --- transparency ----------------------------------------------------------------------------------------------------
def palette_with_transparency() -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 30, 40, 50])
    image.putdata([0, 1])
    return stored(image, "PNG", transparency=bytes([0, 255]))


def gif_with_transparency() -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 30, 40, 50])
    image.putdata([0, 1])
    return stored(image, "GIF", transparency=0, optimize=False)


TWO_PIXELS = {  # the left pixel is transparent; what lies below it, and the right one
    "RGBA": (
        stored(Image.fromarray(np.array([[[200, 10, 20, 0], [30, 40, 50, 255]]], np.uint8)), "PNG"),
        (200, 10, 20),
    ),
    "LA": (png(2, 1, 8, 4, b"\0\x09\0\x28\xff"), (9, 9, 9)),
    "P+tRNS": (palette_with_transparency(), (200, 10, 20)),
    "RGB+tRNS": (png(2, 1, 8, 2, b"\0\xc8\x0a\x14\x1e\x28\x32", struct.pack(">HHH", 200, 10, 20)), (200, 10, 20)),
    "L+tRNS": (png(2, 1, 8, 0, b"\0\x09\x28", struct.pack(">H", 9)), (9, 9, 9)),
    "I;16+tRNS": (
        png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 9 * 256, 40 * 256), struct.pack(">H", 9 * 256)),
        (9,) * 3,
    ),
    "GIF": (gif_with_transparency(), (200, 10, 20)),
}


@pytest.mark.parametrize("name", TWO_PIXELS)
def test_transparency_is_white_or_dropped(name: str) -> None:
    data, below = TWO_PIXELS[name]
    right = (40, 40, 40) if below[0] == 9 else (30, 40, 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        white, dropped = open_image(data), open_image(data, alpha="drop")
    assert [tuple(pixel) for pixel in as_array(white)[0]] == [(255, 255, 255), right]
    assert [tuple(pixel) for pixel in as_array(dropped)[0]] == [below, right]


@given(st.integers(0, 255), st.integers(0, 255))
def test_half_transparent_pixels_are_mixed_with_white(level: int, alpha: int) -> None:
    image = Image.new("LA", (1, 1), (level, alpha))
    mixed = level * alpha / 255 + 255 - alpha
    assert abs(as_array(open_image(image))[0, 0, 0] - mixed) <= 1


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_an_opaque_alpha_channel_changes_nothing(width: int, height: int, seed: int) -> None:
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rgba = np.concatenate([rgb, np.full((height, width, 1), 255, np.uint8)], axis=2)
    assert np.array_equal(as_array(open_image(rgba)), rgb)
    assert np.array_equal(as_array(open_image(rgba, alpha="drop")), rgb)


# --- more than 8 bits ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("factor", [256, 257])
def test_sixteen_bits_undo_both_ways_of_widening(factor: int) -> None:
    wide = Image.fromarray(RAMP.astype(np.uint16) * np.uint16(factor))
    assert np.array_equal(as_array(open_image(stored(wide, "PNG")))[..., 0], RAMP)


def test_depth_clip_is_pillows_convert() -> None:
    wide = Image.fromarray(np.array([[0, 100, 255, 300, 65535]], np.uint16))
    assert as_array(open_image(wide, depth="clip"))[0, :, 0].tolist() == [0, 100, 255, 255, 255]


def test_dark_sixteen_bit_files_stay_dark() -> None:
    dark = np.full((1, 2), 200, ">u2").tobytes()
    assert as_array(open_image(b"P5\n2 1\n65535\n" + dark)).max() == 0
    assert as_array(open_image(png(2, 1, 16, 0, b"\0" + dark))).max() == 0


def test_integers_and_floats_in_the_range_of_eight_bits_are_kept() -> None:
    assert np.array_equal(as_array(open_image(Image.fromarray(RAMP.astype(np.int32))))[..., 1], RAMP)
    assert np.array_equal(as_array(open_image(Image.fromarray(RAMP.astype(np.float32))))[..., 1], RAMP)


@pytest.mark.parametrize("value", [-1, 65_536])
def test_integers_out_of_range_are_refused(value: int) -> None:
    assert f"to {max(value, 0)}" in message(lambda: open_image(Image.fromarray(np.array([[0, value]], np.int32))))


@pytest.mark.parametrize("value", [-0.5, 256.0, float("nan"), float("inf")])
def test_floats_out_of_range_are_refused(value: float) -> None:
    assert "expected 0..1" in message(lambda: open_image(Image.fromarray(np.array([[0, value]], np.float32))))


# --- orientation -----------------------------------------------------------------------------------------------------
# How a camera stores the upright picture `a`, by the definition of the tag: where its first row and column lie.
CAMERA: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
QUADRANTS = np.kron(np.array([[20, 90, 160], [230, 60, 120]], np.uint8), np.ones((16, 16), np.uint8))
QUADRANTS = np.repeat(QUADRANTS[..., None], 3, axis=2)


def photographed(orientation: int, format: str) -> bytes:
    exif = Image.Exif()
    exif[images.ORIENTATION_TAG] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    return stored(Image.fromarray(np.ascontiguousarray(CAMERA[orientation](QUADRANTS))), format, exif=exif, **options)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", CAMERA)
def test_every_orientation_is_turned_upright(orientation: int, format: str) -> None:
    data = photographed(orientation, format)
    got = as_array(open_image(data))
    tolerance = 2 if format == "JPEG" else 0
    assert got.shape == QUADRANTS.shape
    assert np.abs(got.astype(int) - QUADRANTS).max() <= tolerance
    lazily = Image.open(io.BytesIO(data))
    assert np.array_equal(as_array(open_image(lazily)), got)
    if format != "TIFF":
        untouched = as_array(open_image(data, exif=False)).astype(int)
        assert np.abs(untouched - CAMERA[orientation](QUADRANTS)).max() <= tolerance


def test_opening_twice_changes_nothing_more() -> None:
    once = open_image(photographed(6, "JPEG"))
    assert np.array_equal(as_array(open_image(once)), as_array(once))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01"]
)
@pytest.mark.filterwarnings("ignore")
def test_broken_exif_does_not_cost_the_picture(exif: bytes) -> None:
    data = stored(Image.fromarray(QUADRANTS), "JPEG", exif=exif)
    assert np.abs(as_array(open_image(data)).astype(int) - QUADRANTS).max() <= 2


def test_an_unreadable_orientation_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Image.Image) -> Image.Exif:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", broken)
    with pytest.warns(UserWarning, match="EXIF data of the image are broken"):
        open_image(Image.new("RGB", (2, 2)))
