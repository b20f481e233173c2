"""Each object as a picture of its own: cut out, or its mask alone."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from paligemma.errors import UsageError
from paligemma.results.boxes import Box
from paligemma.results.files import as_name, folder, stem, told

if TYPE_CHECKING:
    from paligemma.results.detections import Detections


def crop(image: Image.Image, box: Box, *, margin: float = 0.0, masked: bool = False) -> Image.Image:
    """What is in the box, at least one pixel.

    Args:
        margin: how much more on each side, as a fraction of the box's own width and height; the picture's edge ends it.
        masked: transparent where the mask is not; without effect on a box without one.
    """
    x1, y1, x2, y2 = box.xyxy
    dx, dy = margin * (x2 - x1), margin * (y2 - y1)
    left, top = min(max(0, int(x1 - dx)), image.width - 1), min(max(0, int(y1 - dy)), image.height - 1)
    right, bottom = min(image.width, max(left + 1, round(x2 + dx))), min(image.height, max(top + 1, round(y2 + dy)))
    cut = image.convert("RGB").crop((left, top, right, bottom))
    if masked and box.mask is not None:
        alpha = np.rint(box.mask.soft()[top:bottom, left:right] * 255).astype(np.uint8)
        cut.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    return cut


def save_crops(found: "Detections", path: str | Path, *, margin: float = 0.0, masked: bool = False) -> list[Path]:
    """Writes `PICTURE-NUMBER-LABEL.png` for each box into the folder, in order, and gives their paths.

    Raises:
        UsageError: the answer holds no picture.
        ResourceError: a file cannot be written.
    """
    if not found.images:
        raise UsageError("this answer holds no picture to cut objects out of; keep the pictures")
    cut = ((box, crop(found.images[0], box, margin=margin, masked=masked)) for box in found.boxes)
    return _save(found, enumerate(cut, start=1), path, "")


def save_masks(found: "Detections", path: str | Path) -> list[Path]:
    """Writes `PICTURE-NUMBER-LABEL-mask.png`, black and white and of the picture's size, for each box with a mask.

    Raises:
        ResourceError: a file cannot be written.
    """
    masks = (
        (number, (box, Image.fromarray(box.mask.array().astype(np.uint8) * 255)))
        for number, box in enumerate(found.boxes, start=1)
        if box.mask is not None
    )
    return _save(found, masks, path, "-mask")


def _save(
    found: "Detections", pictures: Iterable[tuple[int, tuple[Box, Image.Image]]], path: str | Path, ending: str
) -> list[Path]:
    path = folder(path)
    digits = max(2, len(str(len(found))))
    paths = []
    for number, (box, picture) in pictures:
        paths.append(path / f"{stem(found)}-{number:0{digits}d}-{as_name(box.label)}{ending}.png")
        with told(paths[-1]):
            picture.save(paths[-1])
    return paths
