"""The mask of one object: 64 x 64 values from the codec, or a drawn mask, and the way it is pasted into its picture.

In: float values inside the object's box, about -1 (background) to 1 (object), as the codec decodes them. Out: soft or
yes-or-no pixels of the whole picture, COCO's run lengths, outlines. Two ways of pasting are in use and differ by a few
pixels at the edge: `big_vision` is the reference's segmentation evaluator (box truncated to whole pixels, values
resized bilinearly, object where > 0), `demo` the Hugging Face demo (box rounded, values as 8-bit, resized bicubically).
Sources: big_vision `evaluators/proj/paligemma/transfers/segmentation.py`; the space `big-vision/paligemma`. Both are
proven against golden arrays. The codec itself is not here: no torch.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from PIL import Image

from paligemma.errors import InputError, UsageError
from paligemma.results import rle
from paligemma.results.outlines import outlines

Corners = tuple[float, float, float, float]
Convention = Literal["big_vision", "demo"]
CONVENTIONS: tuple[Convention, ...] = ("big_vision", "demo")


def pixel_box(
    box_yxyx_norm: Corners, image_size_px: tuple[int, int], convention: Convention = "big_vision"
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom in whole pixels: truncated (`big_vision`) or rounded half to even (`demo`).

    Raises:
        UsageError: unknown convention.
    """
    if convention not in CONVENTIONS:
        raise UsageError(f"unknown pasting {convention!r}; give one of {', '.join(CONVENTIONS)}")
    to_pixel = math.trunc if convention == "big_vision" else round
    (y1, x1, y2, x2), (width, height) = box_yxyx_norm, image_size_px
    return (to_pixel(x1 * width), to_pixel(y1 * height), to_pixel(x2 * width), to_pixel(y2 * height))


def resized(values: np.ndarray, size_px: tuple[int, int], convention: Convention = "big_vision") -> np.ndarray:
    """float32[h, w] values at another size (width, height), still about -1..1; empty where a side is 0."""
    if 0 in size_px or values.size == 0:
        return np.zeros((size_px[1], size_px[0]), dtype=np.float32)
    if convention == "big_vision":
        picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
        return np.asarray(picture.resize(size_px, Image.Resampling.BILINEAR))
    levels = (np.clip(values * 0.5 + 0.5, 0, 1) * 255).astype(np.uint8)
    soft = np.asarray(Image.fromarray(levels).resize(size_px, Image.Resampling.BICUBIC), dtype=np.float32) / 255
    return soft * 2 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Mask:
    """The mask of one object.

    Args:
        values: float32[h, w] inside the box, about -1..1 and not clipped, object where > 0; 64 x 64 from the codec.
        box_yxyx_norm: top, left, bottom, right as fractions 0..1 of the picture.
        image_size_px: width and height of the picture.
        codes: the 16 mask tokens 0..127 it was decoded from.
        convention: how it is pasted, see the module.
    """

    values: np.ndarray
    box_yxyx_norm: Corners
    image_size_px: tuple[int, int]
    codes: tuple[int, ...] | None = None
    convention: Convention = "big_vision"

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float32)
        if values.ndim != 2:
            raise InputError(f"a mask has shape {list(values.shape)}; give float[h, w], the values inside the box")
        object.__setattr__(self, "values", values)

    @classmethod
    def from_array(cls, pixels: Any) -> "Mask":
        """The mask of bool[H, W] of a whole picture; its box is the tightest around what is true.

        Raises:
            InputError: not two-dimensional.
        """
        pixels = np.asarray(pixels).astype(bool)
        if pixels.ndim != 2 or 0 in pixels.shape:
            raise InputError(f"a mask has shape {list(pixels.shape)}; give bool[H, W] of the whole picture")
        height, width = pixels.shape
        rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
        if not rows.size:
            return cls(values=np.zeros((0, 0)), box_yxyx_norm=(0.0, 0.0, 0.0, 0.0), image_size_px=(width, height))
        y1, y2, x1, x2 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        inside = np.where(pixels[y1:y2, x1:x2], 1.0, -1.0)
        box = (_fraction(y1, height), _fraction(x1, width), _fraction(y2, height), _fraction(x2, width))
        return cls(values=inside, box_yxyx_norm=box, image_size_px=(width, height))

    @classmethod
    def from_rle(cls, runs: dict[str, Any]) -> "Mask":
        """The mask of COCO's run lengths, compressed or plain.

        Raises:
            InputError: runs that do not fill the picture.
        """
        return cls.from_array(rle.decode(runs))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        same = (self.box_yxyx_norm, self.image_size_px, self.codes, self.convention)
        return same == (other.box_yxyx_norm, other.image_size_px, other.codes, other.convention) and np.array_equal(
            self.values, other.values
        )

    def __hash__(self) -> int:
        return hash((self.box_yxyx_norm, self.image_size_px, self.codes, self.convention, self.values.tobytes()))

    def __repr__(self) -> str:
        height, width = self.values.shape
        return f"Mask({width} x {height} values in box {self.box_yxyx_norm} of {self.image_size_px} px)"

    def crop(self) -> tuple[np.ndarray, tuple[int, int]]:
        """float32[h, w] values (about -1..1) at the picture's own pixels inside the box, and its left and top."""
        x1, y1, x2, y2 = pixel_box(self.box_yxyx_norm, self.image_size_px, self.convention)
        return resized(self.values, (x2 - x1, y2 - y1), self.convention), (x1, y1)

    def _paste(self, crop: np.ndarray, left_top: tuple[int, int]) -> np.ndarray:
        width, height = self.image_size_px
        whole = np.zeros((height, width), dtype=crop.dtype)
        x, y = left_top
        whole[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        return whole

    def soft(self) -> np.ndarray:
        """float32[H, W] of the whole picture, 0..1; 0 outside the box."""
        crop, left_top = self.crop()
        return self._paste(np.clip(crop * 0.5 + 0.5, 0, 1), left_top)

    def array(self, threshold: float = 0.5) -> np.ndarray:
        """bool[H, W] of the whole picture: where `soft()` is above `threshold`."""
        crop, left_top = self.crop()
        return self._paste(crop > 2 * threshold - 1, left_top)

    @cached_property
    def area_px(self) -> int:
        """How many pixels of the picture it covers."""
        return int((self.crop()[0] > 0).sum())

    def rle(self) -> dict[str, Any]:
        """COCO's compressed run lengths, `{"size": [H, W], "counts": text}`, as pycocotools reads them."""
        crop, left_top = self.crop()
        runs = rle.runs_of(crop > 0, self.image_size_px, left_top)
        return {"size": [self.image_size_px[1], self.image_size_px[0]], "counts": rle.counts_text(runs)}

    def polygons(self, tolerance_px: float = 0.75) -> list[np.ndarray]:
        """Outlines, float64[n, 2] of x, y in pixels for each part; a hole is joined to it by a cut of no width.

        Args:
            tolerance_px: how far an outline may stray from the pixels' edges; 0 follows them exactly.
        """
        crop, left_top = self.crop()
        return [outline + left_top for outline in outlines(crop > 0, tolerance_px)]

    def iou(self, other: "Mask") -> float:
        """Shared area over joint area, 0..1; 0 where both are empty.

        Raises:
            InputError: masks of pictures of two sizes.
        """
        if self.image_size_px != other.image_size_px:
            raise InputError(
                f"masks of pictures of {self.image_size_px} and {other.image_size_px} px; compare those of one picture"
            )
        (mine, mine_at), (theirs, theirs_at) = self.crop(), other.crop()
        in_mine, in_theirs = mine > 0, theirs > 0
        of_mine, of_theirs = overlap(mine_at, in_mine.shape, theirs_at, in_theirs.shape)
        both = int((in_mine[of_mine] & in_theirs[of_theirs]).sum())
        joint = int(in_mine.sum()) + int(in_theirs.sum()) - both
        return both / joint if joint else 0.0


_Slices = tuple[slice, slice]


def overlap(
    a_at: tuple[int, int], a_shape: tuple[int, ...], b_at: tuple[int, int], b_shape: tuple[int, ...]
) -> tuple[_Slices, _Slices]:
    """Where two rectangles (left, top; height, width) of one picture overlap, as slices of each."""
    x1, y1 = max(a_at[0], b_at[0]), max(a_at[1], b_at[1])
    x2 = max(x1, min(a_at[0] + a_shape[1], b_at[0] + b_shape[1]))
    y2 = max(y1, min(a_at[1] + a_shape[0], b_at[1] + b_shape[0]))
    a, b = ((slice(y1 - y, y2 - y), slice(x1 - x, x2 - x)) for x, y in (a_at, b_at))
    return a, b


def _fraction(edge_px: int, side_px: int) -> float:
    """The fraction of a side that truncates to `edge_px` again."""
    fraction = edge_px / side_px
    return fraction if math.trunc(fraction * side_px) == edge_px else math.nextafter(fraction, 1.0)
