"""Where a picture may come from, and what is refused: other files, damage, size."""

import io
import os
import socket
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.pictures import NOISE, RAMP, as_array, message, png, stored

from paligemma import images
from paligemma.errors import InputError, UsageError
from paligemma.images import open_image


def opened_or_refused(data: bytes) -> np.ndarray | str:
    """The picture or the sentence; any other error escapes."""
    try:
        return as_array(open_image(data))
    except InputError as error:
        return str(error)


# --- sources ---------------------------------------------------------------------------------------------------------
def test_all_kinds_of_source_give_the_same_picture(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(stored(Image.fromarray(NOISE), "PNG"))
    link = tmp_path / "link.png"
    link.symlink_to(path)
    with path.open("rb") as file:
        opened = open_image(file)
    data = path.read_bytes()
    for got in (opened, *map(open_image, (path, str(path), link, data, bytearray(data), io.BytesIO(data), NOISE))):
        assert np.array_equal(as_array(got), NOISE)


def test_a_pil_source_is_left_as_it_was() -> None:
    source = Image.fromarray(NOISE)
    source.info["exif"] = b"anything"
    result = open_image(source, exif=False)
    result.putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(np.array(source), NOISE)
    assert source.info == {"exif": b"anything"}


def test_arrays_of_grey_and_rgba_and_views() -> None:
    assert np.array_equal(as_array(open_image(RAMP))[..., 2], RAMP)
    assert np.array_equal(as_array(open_image(RAMP[..., None]))[..., 2], RAMP)
    assert np.array_equal(as_array(open_image(NOISE[::2, ::-3])), NOISE[::2, ::-3])


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (NOISE.astype(np.float32), "float32"),
        (NOISE.astype(np.int64), "int64"),
        (RAMP > 3, "bool"),
        (NOISE[None], "1 x 24 x 40 x 3"),
        (NOISE.transpose(2, 0, 1), "3 x 24 x 40"),
        (NOISE[..., :2], "24 x 40 x 2"),
        (NOISE[0, 0], "array of 3"),
        (NOISE[:0], "40 x 0"),
        (np.zeros((10, 0), np.uint8), "0 x 10"),
    ],
)
def test_unusable_arrays_are_named(array: np.ndarray, found: str) -> None:
    assert found in message(lambda: open_image(array))


@pytest.mark.parametrize("source", [None, 3, ["a.jpg"], object()])
def test_other_types_are_a_usage_error(source: object) -> None:
    with pytest.raises(UsageError, match="expected a path") as caught:
        open_image(source)  # type: ignore[arg-type]
    assert " 0x" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("hello")
    with text.open() as file, pytest.raises(UsageError, match="'rb'"):
        open_image(file)  # type: ignore[arg-type]
    assert "cannot be read" in message(lambda: open_image(file))  # closed by now


@pytest.mark.parametrize("rule", [{"alpha": "black"}, {"depth": "wrap"}])
def test_unknown_rules_are_a_usage_error(rule: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="unknown rule"):
        open_image(RAMP, **rule)  # type: ignore[arg-type]


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    pipe, loop, directory, bound = (tmp_path / name for name in ("pipe.jpg", "loop.jpg", "dir.jpg", "socket.jpg"))
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(bound))
        started = time.monotonic()
        for path in (pipe, loop, directory, bound, Path("/dev/zero"), tmp_path / ("x" * 300)):
            text = message(lambda path=path: open_image(path))
            assert str(path) in text
        assert time.monotonic() - started < 2
    assert "is a directory" in message(lambda: open_image(directory))
    assert "there is no file" in message(lambda: open_image(tmp_path / "missing.jpg"))
    assert "not a file name" in message(lambda: open_image("a\0b.jpg"))
    assert "download it first" in message(lambda: open_image("https://example.org/a.jpg"))


def test_odd_names_are_shown_on_one_line(tmp_path: Path) -> None:
    name = tmp_path / "a\nb\x1b[31m.jpg"
    name.write_bytes(b"nothing")
    text = message(lambda: open_image(name))
    assert "\x1b" not in text
    assert "a\\nb" in text


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "empty (0 bytes)"),
        (b"just some words\n", "text of 16 bytes"),
        ("Grüße aus Köln".encode(), "text"),
        (b"\n <!DOCTYPE html><html>", "an HTML page"),
        (b"%PDF-1.7 ...", "a PDF document"),
        (b"PK\3\4 ...", "a zip archive"),
        (b"\0\0\0\x1cftypheic0000", "a HEIC image"),
        (b"\0\0\0\x1cftypisom0000", "a video of 16 bytes"),
        (b"\xff\xd8\xff\xe0 and no more", "damaged JPEG file of 16 bytes"),
        (bytes(range(128, 256)), "an unknown format of 128 bytes"),
    ],
)
def test_what_is_no_image_is_named_with_its_size(data: bytes, found: str) -> None:
    assert found in message(lambda: open_image(data))


@pytest.mark.parametrize("format", ["ICO", "TGA", "SGI", "DDS", "PCX", "ICNS", "JPEG2000", "AVIF", "EPS"])
def test_parsers_outside_the_list_are_not_entered(format: str) -> None:
    data = stored(Image.new("RGB", (32, 32)), format)
    with Image.open(io.BytesIO(data)) as known:
        assert known.format == format  # Pillow itself would take it
    assert "expected JPEG, PNG" in message(lambda: open_image(data))


def test_files_over_the_byte_limit_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = stored(Image.fromarray(NOISE), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    monkeypatch.setattr(images, "MAX_BYTES", len(data) - 1)
    for source in (data, path, io.BytesIO(data)):
        assert "is larger than" in message(lambda source=source: open_image(source))
    monkeypatch.setattr(images, "MAX_BYTES", len(data))
    assert open_image(path).size == (40, 24)


# --- damage and size -------------------------------------------------------------------------------------------------
VALID = {
    "JPEG": stored(Image.fromarray(NOISE), "JPEG"),
    "progressive JPEG": stored(Image.fromarray(NOISE), "JPEG", progressive=True),
    "PNG": stored(Image.fromarray(NOISE), "PNG"),
    "palette PNG": stored(Image.fromarray(NOISE).convert("P"), "PNG", transparency=3),
    "WebP": stored(Image.fromarray(NOISE), "WEBP"),
    "lossless WebP": stored(Image.fromarray(NOISE), "WEBP", lossless=True),
    "BMP": stored(Image.fromarray(NOISE), "BMP"),
    "GIF": stored(Image.fromarray(NOISE), "GIF"),
    "TIFF": stored(Image.fromarray(NOISE), "TIFF"),
    "LZW TIFF": stored(Image.fromarray(NOISE), "TIFF", compression="tiff_lzw"),
    "PPM": stored(Image.fromarray(NOISE), "PPM"),
}


@pytest.mark.parametrize("name", VALID)
@pytest.mark.filterwarnings("ignore")
def test_truncated_files_are_an_input_error_or_whole(name: str) -> None:
    data = VALID[name]
    whole = as_array(open_image(data))
    refused = 0
    for length in sorted(
        {*range(64), *range(64, len(data), max(1, len(data) // 120)), *range(len(data) - 8, len(data))}
    ):
        result = opened_or_refused(data[:length])
        if isinstance(result, str):
            refused += 1
            assert "bytes" in result or "truncated" in result
            assert " 0x" not in result
        else:
            assert np.array_equal(result, whole)  # a cut trailer loses no pixel
    assert refused > 150


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(VALID)), st.data())
def test_flipped_and_spliced_files_open_or_are_an_input_error(name: str, choice: st.DataObject) -> None:
    data = bytearray(VALID[name])
    for _ in range(choice.draw(st.integers(1, 4))):
        place = choice.draw(st.one_of(st.integers(0, 63), st.integers(0, len(data) - 1)))
        data[place : place + choice.draw(st.integers(0, 3))] = choice.draw(st.binary(max_size=4))
    result = opened_or_refused(bytes(data))
    if isinstance(result, str):
        assert " 0x" not in result
        assert "\n" not in result


def header_only(format: str, width: int, height: int) -> bytes:
    """A valid start of a file that promises a picture of that size."""
    data = bytearray(stored(Image.new("RGB", (8, 8)), format))
    if format == "PNG":
        return png(width, height, 8, 2, b"\0")
    if format == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif format == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif format == "JPEG":
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", height, width)
    elif format == "PPM":
        return b"P6\n%d %d\n255\n\0\0\0" % (width, height)
    return bytes(data)


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "JPEG", "PPM"])
@pytest.mark.parametrize("side", [9_000, 65_000])
@pytest.mark.filterwarnings("ignore")
def test_bombs_are_refused_by_their_header(format: str, side: int) -> None:
    data = header_only(format, side, side)
    started = time.monotonic()
    text = message(lambda: open_image(data))
    assert time.monotonic() - started < 0.2
    assert "the limit is 50.0 MP" in text or "more pixels than Pillow opens" in text


def test_the_pixel_limit_is_exact_and_can_be_moved() -> None:
    data = stored(Image.fromarray(NOISE), "PNG")
    assert open_image(data, max_pixels=24 * 40).size == (40, 24)
    for source in (data, NOISE, Image.fromarray(NOISE)):
        text = message(lambda source=source: open_image(source, max_pixels=24 * 40 - 1))
        assert "40 x 24 px" in text
        assert "max_pixels" in text


@settings(deadline=None)
@given(st.sampled_from(["PNG", "BMP", "TIFF", "PPM", "GIF"]), st.booleans(), st.integers(1, 300), st.integers(1, 3))
def test_thin_and_tiny_pictures_keep_their_size(format: str, tall: bool, long: int, short: int) -> None:
    size = (short, long) if tall else (long, short)
    got = open_image(stored(Image.new("RGB", size, (255, 0, 0)), format))
    assert got.size == size
    assert got.getpixel((size[0] - 1, size[1] - 1)) == (255, 0, 0)
