"""Masks as people keep them -> `Mask`: arrays, pictures, COCO polygons and run lengths, pictures of instance ids.

A picture or array of grey levels is soft: above half is object, and edges keep their grey. Levels that all lie below
half cannot be that and are numbers instead (0/1, ids): then everything but 0 is object. Polygons are filled where the
middle of a pixel is inside; parts of one object are united, and a part that crosses itself is hollow there (even-odd).
Not done here: codes (`masks.py`), whole data sets.
"""

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from paligemma.errors import InputError, UsageError
from paligemma.images import FORMATS, MAX_PIXELS, open_image
from paligemma.results import Mask, rle

_PICTURES = (str, bytes, Image.Image)
_FAR_PX = 1e9
_EXPECTED = "give an array, a picture, COCO run lengths, or polygons"


def mask_of(source: Any, image_size_px: tuple[int, int] | None = None) -> Mask:
    """The mask of one object.

    Args:
        source: a `Mask`; bool[H, W] or uint8[H, W] of the whole picture; a PNG or other picture (path, bytes, binary
            file, PIL image), of which the alpha channel counts where it is not all opaque; COCO run lengths
            `{"size": [H, W], "counts": ...}`, compressed or plain; or polygons, each float[n, 2] or COCO's
            `[x1, y1, x2, y2, ...]` in pixels.
        image_size_px: width and height of the picture: needed for polygons, compared for the rest.

    Raises:
        InputError: damaged, of another shape or size, or nothing of these.
        UsageError: polygons without the picture's size.
    """
    if isinstance(source, Mask):
        mask = source
    elif isinstance(source, dict):
        mask = _of_runs(source)
    elif isinstance(source, np.ndarray) and source.dtype.kind in "bu" and source.ndim == 2:
        mask = _of_levels(source)
    elif isinstance(source, (list, tuple)):
        if image_size_px is None:
            raise UsageError("polygons were given without the picture's size; give image_size_px=(width, height)")
        mask = Mask.from_array(fill_polygons(source, image_size_px))
    elif isinstance(source, _PICTURES) or hasattr(source, "read") or hasattr(source, "__fspath__"):
        mask = _of_levels(_levels(_picture(source)))
    else:
        what = f"{source.dtype} array {list(source.shape)}" if isinstance(source, np.ndarray) else type(source).__name__
        raise InputError(f"a mask is a {what}, expected bool[H, W] or uint8[H, W]; {_EXPECTED}")
    if image_size_px is not None and mask.image_size_px != tuple(image_size_px):
        raise InputError(
            f"a mask has {mask.image_size_px} px where the picture has {tuple(image_size_px)}; make them the same size"
        )
    return mask


def _of_levels(levels: np.ndarray) -> Mask:
    """bool or unsigned levels [H, W]; soft edges keep their grey inside the box."""
    if levels.dtype == bool:
        return Mask.from_array(levels)
    full = np.iinfo(levels.dtype).max
    if not levels.size or levels.max() <= full // 2:
        return Mask.from_array(levels > 0)
    mask = Mask.from_array(levels > full // 2)
    rows, columns = (np.flatnonzero((levels > full // 2).any(axis=axis)) for axis in (1, 0))
    inside = levels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    return replace(mask, values=inside / np.float32(full / 2) - 1)


# --- COCO ------------------------------------------------------------------------------------------------------------


def _of_runs(runs: dict[str, Any]) -> Mask:
    size, counts = runs.get("size"), runs.get("counts")
    sound = isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)
    plain = isinstance(counts, (list, tuple)) and all(isinstance(n, int) for n in counts)
    if not sound or not (isinstance(counts, (str, bytes)) or plain) or size[0] * size[1] > MAX_PIXELS:  # type: ignore[index]
        raise InputError(
            f"COCO run lengths have size {size!r} and counts of type {type(counts).__name__}, expected [height, width] "
            f"up to {MAX_PIXELS:,} pixels and a text or list; take them from the annotation's `segmentation`"
        )
    return Mask.from_array(rle.decode(runs))


def fill_polygons(polygons: Sequence[Any], image_size_px: tuple[int, int]) -> np.ndarray:
    """bool[H, W]: pixels whose middle lies in any of the polygons.

    Args:
        polygons: each float[n, 2] of x, y in pixels, or flat as in COCO; one flat polygon alone may be given bare.

    Raises:
        InputError: fewer than 3 points, an odd number of coordinates, or one that is no finite number.
    """
    width, height = image_size_px
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InputError(f"a picture of {width} x {height} px was given; give 1 to {MAX_PIXELS:,} pixels")
    if len(polygons) and np.isscalar(polygons[0]):
        polygons = [polygons]
    filled = np.zeros((height, width), dtype=bool)
    for i, polygon in enumerate(polygons):
        _fill(_points(i, polygon), filled)
    return filled


def _points(i: int, polygon: Any) -> np.ndarray:
    try:
        points = np.asarray(polygon, dtype=np.float64)
        points = points.reshape(-1, 2)
    except (TypeError, ValueError):
        raise InputError(f"polygon {i} is no list of x, y pairs; give [x1, y1, x2, y2, ...] in pixels") from None
    if len(points) < 3 or not np.isfinite(points).all():
        raise InputError(f"polygon {i} has {len(points)} points, expected at least 3, all finite; correct or leave out")
    return points


def _fill(points: np.ndarray, filled: np.ndarray) -> None:
    """Sets the pixels of one polygon. Row by row, each edge crossed switches between outside and inside."""
    height, width = filled.shape
    points = np.clip(points, -_FAR_PX, _FAR_PX)  # keeps the sums below exact
    x, y = points.T
    left, right = np.clip(np.ceil([x.min() - 0.5, x.max() - 0.5]), 0, width).astype(int)
    top, bottom = np.clip(np.ceil([y.min() - 0.5, y.max() - 0.5]), 0, height).astype(int)
    if left >= right or top >= bottom:
        return
    from_x, from_y, to_x, to_y = x, y, np.roll(x, -1), np.roll(y, -1)
    first = np.clip(np.ceil(np.minimum(from_y, to_y) - 0.5), top, bottom).astype(int)
    count = np.clip(np.ceil(np.maximum(from_y, to_y) - 0.5), top, bottom).astype(int) - first
    edge = np.repeat(np.arange(len(points)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    along = (row + 0.5 - from_y[edge]) / (to_y - from_y)[edge]
    crossing = from_x[edge] + along * (to_x - from_x)[edge]
    column = np.clip(np.ceil(crossing - 0.5), left, right).astype(int)
    switches = np.zeros((bottom - top, right - left + 1), dtype=np.int32)
    np.add.at(switches, (row - top, column - left), 1)
    filled[top:bottom, left:right] |= (np.cumsum(switches, axis=1)[:, :-1] % 2).astype(bool)


# --- pictures --------------------------------------------------------------------------------------------------------


def _picture(source: Any) -> Image.Image:
    """The picture as it is stored: palettes and 16 bits unchanged. `open_image` first refuses what is unsafe."""
    if hasattr(source, "read"):
        source = source.read()
    open_image(source)
    if isinstance(source, Image.Image):
        return ImageOps.exif_transpose(source)
    if not isinstance(source, bytes):
        with open(source, "rb") as file:
            source = file.read()
    return ImageOps.exif_transpose(Image.open(io.BytesIO(source), formats=FORMATS))


def _levels(image: Image.Image) -> np.ndarray:
    """bool or unsigned [H, W]: the alpha channel if it says anything, else grey, else "not black"."""
    if image.mode == "1" or image.mode.startswith("I"):
        return _numbers(image)
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        if alpha.min() < 255:
            return alpha
    colors = np.asarray(image.convert("RGB"))
    if (colors == colors[..., :1]).all():
        return colors[..., 0]
    return np.asarray(colors.any(axis=2))


def _numbers(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    if array.dtype.kind == "i":
        if array.min() < 0 or array.max() >= 2**16:
            raise InputError(f"a mask picture holds numbers from {array.min()} to {array.max()}; give 0 to 65535")
        array = array.astype(np.uint16)
    return array


def read_instances(source: Any, background: Sequence[int] = (0,)) -> dict[int, Mask]:
    """Each object of a picture of ids, by its id in increasing order.

    Args:
        source: a picture whose grey level, palette index or 16-bit number is the id, or of colours as in COCO's
            panoptic format (red + 256 green + 65536 blue); or an integer array [H, W].
        background: ids that are no object; PASCAL VOC needs (0, 255).

    Raises:
        InputError: not such a picture or array.
    """
    ids = source if isinstance(source, np.ndarray) else _ids(_picture(source))
    if ids.ndim != 2 or ids.dtype.kind not in "biu":
        raise InputError(f"instance ids are a {ids.dtype} array {list(ids.shape)}; give integers [H, W]")
    ids = ids.astype(np.int64)
    y, x = np.nonzero(~np.isin(ids, np.asarray(background, dtype=np.int64)))
    order = np.argsort(ids[y, x], kind="stable")
    y, x = y[order], x[order]
    values, starts = np.unique(ids[y, x], return_index=True)
    parts = zip(values, np.split(y, starts[1:]), np.split(x, starts[1:]), strict=True) if len(values) else ()
    height, width = ids.shape
    return {int(value): _of_pixels(rows, columns, (width, height)) for value, rows, columns in parts}


def _of_pixels(rows: np.ndarray, columns: np.ndarray, image_size_px: tuple[int, int]) -> Mask:
    """The mask of listed pixels; only its box is held in memory."""
    whole = np.zeros((image_size_px[1], image_size_px[0]), dtype=bool)
    whole[rows, columns] = True
    return Mask.from_array(whole)


def _ids(image: Image.Image) -> np.ndarray:
    if image.mode in ("1", "L", "P") or image.mode.startswith("I"):
        return np.asarray(image)
    if image.mode in ("LA", "PA"):
        return np.asarray(image.getchannel(0))
    if image.mode in ("RGB", "RGBA"):
        red, green, blue = (np.asarray(image.getchannel(name)).astype(np.int64) for name in "RGB")
        return red + 256 * green + 65536 * blue
    raise InputError(f"a picture of ids has mode {image.mode}, expected grey, palette, 16-bit or RGB; convert it first")
