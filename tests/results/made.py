"""Made-up pictures and detections for the tests of this room."""

import numpy as np
from PIL import Image

from paligemma.results import Box, Detections, Mask


def picture(width: int, height: int, shade: int = 255) -> Image.Image:
    return Image.new("RGB", (width, height), (shade, shade, shade))


def detections(width: int, height: int, *boxes: tuple[str, tuple[float, float, float, float]], shade: int = 255):
    return Detections(
        text="", raw="", task="detect", prompt="detect x", image_size_px=(width, height),
        images=(picture(width, height, shade),),
        boxes=tuple(Box(label=label, box_yxyx_norm=box, image_size_px=(width, height)) for label, box in boxes),
    )  # fmt: skip


def blob(height: int, width: int, seed: int = 0) -> np.ndarray:
    """bool[H, W]: a few smooth parts, some with holes, none at the border."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.normal(size=(6, 6)).astype(np.float32))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) > 0.2
    smooth[[0, -1]] = smooth[:, [0, -1]] = False
    return smooth


def filled(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """bool[H, W]: where the middles of pixels are inside the rings, by the even-odd rule."""
    height, width = shape
    inside = np.zeros(shape, dtype=bool)
    x = np.arange(width) + 0.5
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            for row in range(max(0, int(np.ceil(min(y1, y2) - 0.5))), min(height, int(np.ceil(max(y1, y2) - 0.5)))):
                inside[row] ^= x > x1 + (row + 0.5 - y1) * (x2 - x1) / (y2 - y1)
    return inside


def segmented(seed: int = 0, *, path: str | None = "shots/a.png", size: tuple[int, int] = (60, 40)) -> Detections:
    """A picture with two boxes that have masks and scores, and one with neither."""
    width, height = size
    pixels = np.zeros((height, width), dtype=bool)
    pixels[2 : height // 2, 3 : width // 2] = blob(height // 2 - 2, width // 2 - 3, seed)
    masks = [Mask.from_array(pixels), Mask.from_array(np.roll(pixels, (height // 3, width // 3), axis=(0, 1)))]
    boxes = [
        Box(
            label=label, box_yxyx_norm=mask.box_yxyx_norm, image_size_px=size, score=score, raw_score=score / 2,
            mask_score=0.5, mask=mask, mask_codes=tuple(range(16)), loc=(1, 2, 3, 4),
        )
        for label, score, mask in zip(("cat", "grüner Hund"), (0.9, 0.25), masks, strict=True)
    ]  # fmt: skip
    boxes.append(Box(label="cat", box_yxyx_norm=(0.25, 0.5, 0.75, 1.0), image_size_px=size))
    return Detections(
        text="cat ; grüner Hund ; cat", raw="<loc...>", task="segment", prompt="segment cat ; grüner Hund",
        model="nano", image_size_px=size, images=(picture(*size, 200),), paths=(path,), boxes=tuple(boxes), score=0.01,
    )  # fmt: skip
