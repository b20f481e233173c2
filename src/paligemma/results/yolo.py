"""YOLO's text format: one file for each picture, one line for each object, fractions of the picture.

    0 0.512500 0.430000 0.225000 0.310000            class, middle x, middle y, width, height
    0 0.401000 0.275000 0.625000 0.280000 ...        class and an outline, where masks are asked for

Classes count from 0 and are named in `classes.txt`, line by line, and in `data.yaml`. Source: the data set pages of
Ultralytics, for detection and for segmentation.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paligemma.results.boxes import Box
from paligemma.results.files import folder, stem, writing
from paligemma.results.labels import Classes
from paligemma.results.outlines import as_one

if TYPE_CHECKING:
    from paligemma.results.detections import Detections


def line(box: Box, number: int, *, masks: bool = False, scores: bool = False) -> str:
    """One object; `masks` writes the outline where there is a mask and the box's corners elsewhere."""
    values: Sequence[float] | np.ndarray
    if masks:
        values = _outline(box).ravel()
    else:
        x1, y1, x2, y2 = box.xyxyn
        values = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    if scores:
        values = [*values, 0.0 if box.score is None else box.score]
    return " ".join([str(number), *(f"{value:.6f}" for value in values)])


def _outline(box: Box) -> np.ndarray:
    """float64[n, 2] of x, y as fractions: all parts of the mask in one ring."""
    if box.mask is not None and (rings := box.mask.polygons()):
        return np.clip(as_one(rings) / box.mask.image_size_px, 0, 1)
    x1, y1, x2, y2 = box.xyxyn
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])


def to_yolo(
    found: "Detections", *, classes: Sequence[str] | Classes | None = None, masks: bool = False, scores: bool = False
) -> str:
    """The lines of one picture.

    Args:
        classes: names of classes 0, 1, ...; by default labels in order of appearance.
        masks: outlines in place of boxes.
        scores: the score as last number, as Ultralytics saves predictions; not for training files.

    Raises:
        UsageError: a label that is none of the given classes.
    """
    known = classes if isinstance(classes, Classes) else Classes(classes)
    return "".join(line(box, known.number(box.label), masks=masks, scores=scores) + "\n" for box in found.boxes)


def write_yolo(
    several: "Iterable[Detections]", path: str | Path, *, classes: Sequence[str] | None = None, masks: bool = False,
    scores: bool = False,
) -> Path:  # fmt: skip
    """Writes the folder `path`: `labels/NAME.txt` for each picture, `classes.txt` and `data.yaml`.

    Pictures of one name in several folders get `-2`, `-3` behind it. Pictures themselves are not copied.

    Raises:
        UsageError: a label that is none of the given classes.
        ResourceError: a file cannot be written.
    """
    path = folder(path)
    labels = folder(path / "labels")
    known, used = Classes(classes), dict[str, int]()
    for number, found in enumerate(several, start=1):
        name = stem(found, number)
        used[name] = used.get(name, 0) + 1
        name = name if used[name] == 1 else f"{name}-{used[name]}"
        with writing(labels / f"{name}.txt") as file:
            file.write(to_yolo(found, classes=known, masks=masks, scores=scores))
    with writing(path / "classes.txt") as file:
        file.writelines(f"{name}\n" for name in known.names)
    with writing(path / "data.yaml") as file:
        file.write("path: .\ntrain: images\nval: images\nnames:\n")
        file.writelines(f"  {i}: {json.dumps(name, ensure_ascii=False)}\n" for i, name in enumerate(known.names))
    return path
