"""Resized images: every array of a golden `images/` directory computed anew from the image file beside it.

Comes in: a directory with `*_pixels.npz` and the images. Goes out: one row per array, in grey levels (0..255) where the
array has a step of 8 bits, otherwise in the array's own units. An array's name tells what to do, `KIND_SIZE/FILE`; a
name that is not understood is a failing row. `KIND_minus_BASE` holds a difference to another array of the directory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from PIL import Image

from paligemma.doctor.jpeg import decode_as_tensorflow
from paligemma.doctor.report import Row, compare, failed
from paligemma.errors import InputError, PaliGemmaError
from paligemma.images import FORMATS, open_image
from paligemma.pixels import resize_float, to_pixels

ONE_LEVEL = 1.0  # the references' own libraries round differently by one grey level
ONE_LEVEL_NORM = 1.0 / 127.5 + 1e-6  # the same in [-1, 1]
FLOAT_NORM = 1e-4  # in [-1, 1], where nothing is rounded to 8 bits


def pil_open(path: Path) -> Image.Image:
    """What Hugging Face's image processors make of `PIL.Image.open(path)`."""
    return open_image(path, exif=False, alpha="white", depth="clip")


def pil_load(path: Path) -> Image.Image:
    """What `transformers.image_utils.load_image` makes of a path."""
    return open_image(path, exif=True, alpha="drop", depth="clip")


def tf_decode(path: Path) -> Image.Image:
    """What big_vision's `decode` makes of a file's bytes."""
    image = open_image(path, exif=False, alpha="drop", depth="scale")  # checks the file, whatever it is
    data = path.read_bytes()
    return Image.fromarray(decode_as_tensorflow(data)) if data.startswith(b"\xff\xd8") else image


@dataclass(frozen=True)
class Kind:
    """How arrays of one kind are made: read, resize; `base` is what was subtracted from them."""

    read: Callable[[Path], Image.Image]
    resize: str
    base: str | None = None


KINDS = {
    "hf_pil_open": Kind(pil_open, "bicubic"),
    "hf_pil_load": Kind(pil_load, "bicubic"),
    "hf_tv_minus_pil_open": Kind(pil_open, "bicubic-torch", base="hf_pil_open"),
    "hf_tv_minus_pil_load": Kind(pil_load, "bicubic-torch", base="hf_pil_load"),
    "bv_bilinear": Kind(tf_decode, "bilinear"),
    "bv_bilinear_aa": Kind(tf_decode, "bilinear-antialias"),
    "bv_bicubic_aa": Kind(tf_decode, "bicubic-truncated"),
    "bv_bicubic_aa_minus_hf_pil_open": Kind(tf_decode, "bicubic-truncated", base="hf_pil_open"),
}
NOTEBOOK = "notebook_f32"
PIXEL_VALUES = "pixel_values_f32_example"  # [3, S, S] of the first file, as the model gets it
VALUE_RANGE = "value_range_example_f32"  # [S, S, 3] of the first file


def check(directory: Path) -> list[Row]:
    """One row per array of `directory`'s npz files.

    Raises:
        InputError: an npz file is broken, or none is there.
    """
    arrays: dict[str, np.ndarray] = {}
    for path in sorted(directory.glob("*_pixels.npz")):
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays.update({name: stored[name] for name in stored.files})
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise InputError(f"{path} cannot be read as arrays ({type(error).__name__}); get a fresh copy") from error
    if not arrays:
        raise InputError(f"{directory} holds no array in *_pixels.npz; give a golden images directory")
    return [_row(name, arrays, directory) for name in arrays]


def _row(name: str, arrays: dict[str, np.ndarray], directory: Path) -> Row:
    try:
        if "/" in name:
            return _file_row(name, arrays, directory)
        return _example_row(name, arrays, directory)
    except (PaliGemmaError, OSError) as error:
        return failed(name, str(error))


def _file_row(name: str, arrays: dict[str, np.ndarray], directory: Path) -> Row:
    recipe, file = name.split("/", 1)
    kind_name, _, size = recipe.rpartition("_")
    if not size.isdecimal() or int(size) < 1 or Path(file).name != file:
        return failed(name, "its name is not KIND_SIZE/FILE")
    path, size_px, expected = directory / file, int(size), arrays[name]
    if kind_name == NOTEBOOK:
        return compare(name, _notebook(path, size_px), expected, FLOAT_NORM)
    kind = KINDS.get(kind_name)
    if kind is None:
        return failed(name, f"unknown kind {kind_name}; known are {', '.join([*KINDS, NOTEBOOK])}")
    if kind.base is not None:
        base = _base(kind.base, size_px, file, arrays)
        if base is None or base.shape != expected.shape:
            return failed(name, f"{kind.base}_{size_px}/{file}, to which it is a difference, is missing or misshapen")
        expected = base.astype(np.int32) + expected
    return compare(name, _levels(kind, path, size_px), expected, ONE_LEVEL)


def _base(kind: str, size_px: int, file: str, arrays: dict[str, np.ndarray]) -> np.ndarray | None:
    """hf_pil_load is stored only where it differs from hf_pil_open."""
    found = arrays.get(f"{kind}_{size_px}/{file}")
    if found is None and kind == "hf_pil_load":
        return arrays.get(f"hf_pil_open_{size_px}/{file}")
    return found


def _example_row(name: str, arrays: dict[str, np.ndarray], directory: Path) -> Row:
    expected = arrays[name]
    first = min((other.split("/", 1)[1] for other in arrays if "/" in other), default=None)
    if name not in (PIXEL_VALUES, VALUE_RANGE):
        return failed(name, f"unknown array; known are KIND_SIZE/FILE, {PIXEL_VALUES} and {VALUE_RANGE}")
    if first is None or expected.ndim != 3:
        return failed(name, f"its image is unknown or its shape {list(expected.shape)} is none of an image")
    path, size_px = directory / first, expected.shape[1]
    if name == PIXEL_VALUES:
        return compare(name, to_pixels(pil_open(path), size_px, "bicubic"), expected, ONE_LEVEL_NORM)
    ours = to_pixels(tf_decode(path), size_px, "bilinear-antialias").movedim(0, -1)
    return compare(name, ours, expected, ONE_LEVEL_NORM)


def _levels(kind: Kind, path: Path, size_px: int) -> np.ndarray:
    """Our grey levels, int[S, S, 3], out of the pixels the model would get."""
    pixels = to_pixels(kind.read(path), size_px, kind.resize).movedim(0, -1).numpy()
    return np.rint((pixels + 1) * 127.5).astype(np.int32)


def _notebook(path: Path, size_px: int) -> np.ndarray:
    """The notebook takes Pillow's raw array, whatever its mode: grey is repeated, a fourth channel is cut off."""
    open_image(path)  # checks the file
    array = np.asarray(Image.open(path, formats=FORMATS))
    array = np.stack([array] * 3, axis=-1) if array.ndim == 2 else array[..., :3]
    return resize_float(array, size_px, "bilinear", antialias=True).numpy() / 127.5 - 1
